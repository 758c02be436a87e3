"""Where models come from, and when they are looked at again."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    ByteSize,
    Field,
    field_validator,
    model_validator,
)

from cachd.settings.azure import AzureSettings
from cachd.settings.git import GitSettings
from cachd.settings.google import GoogleSettings
from cachd.settings.hdfs import HdfsSettings
from cachd.settings.hub import HubSettings
from cachd.settings.modelscope import ModelScopeSettings
from cachd.settings.oci import OciSettings
from cachd.settings.registries import RegistryRule
from cachd.settings.values import (
    Duration,
    Endpoint,
    Seconds,
    Section,
)
from cachd.settings.windows import Windows


class S3Settings(Section):
    """Defaults for `s3://`. A request may say otherwise; then it is another origin."""

    endpoint: Endpoint | None = None
    """Endpoint URL. None: `AWS_ENDPOINT_URL_S3`, `AWS_ENDPOINT_URL`, else AWS."""

    region: str | None = None
    """Region. None: botocore's chain, else us-east-1."""

    addressing: Literal["auto", "path", "virtual"] = "auto"
    """How the bucket is named in the URL; auto: path style for a custom endpoint."""

    verify: bool = True
    """Verify the endpoint's TLS certificate."""

    ca_bundle: Path | None = None
    """PEM file trusted besides the system's authorities."""

    anonymous: bool = False
    """Sign nothing when the daemon's own identity is used."""

    profile: str | None = None
    """Profile of the AWS configuration files for the daemon's own identity."""


class HttpSettings(Section):
    """`http(s)://`."""

    check_content_type: bool = True
    """Apply KServe's Content-Type rules: archives by their types, else application/octet-stream.
    HTML is refused in any case."""

    ca_bundle: Path | None = None
    """PEM file trusted besides the system's authorities."""

    max_redirects: Annotated[int, Field(ge=0)] = 5


class FileSettings(Section):
    """`file://` read by the daemon. (A client's `file://` is read by the client.)"""

    roots: tuple[Path, ...] = ()
    """Directories below which the daemon may read. Empty: nowhere."""


class ArchiveSettings(Section):
    """Limits on archives that are unpacked."""

    max_bytes: ByteSize = ByteSize(2 * 1024**4)
    """Most bytes that one archive may unpack to."""

    max_members: Annotated[int, Field(ge=1)] = 1_000_000
    """Most members."""

    max_ratio: Annotated[float, Field(gt=1)] = 200.0
    """Most unpacked bytes per packed byte, judged after the first 64 MiB."""


class EgressSettings(Section):
    """Where a URI may lead. Redirects and DNS answers are checked against it as well."""

    allow_link_local: bool = False
    """Allow link-local, multicast and cloud metadata addresses."""

    allow: tuple[str, ...] = ()
    """Host names (`*.example.com`), addresses or networks (CIDR) that alone may be called; empty:
    every other address."""

    deny: tuple[str, ...] = ()
    """Host names, addresses or networks never to be called."""


class MirrorRule(Section):
    """One entry of `sources.mirrors`."""

    match: str
    """Pattern (`*`, `?`) over the whole URI, or over the origin's endpoint."""

    endpoints: tuple[str, ...] = Field(min_length=1)
    """Endpoint URLs, tried in this order."""

    identity: Literal["anonymous", "daemon", "caller"] = "anonymous"
    """Whose pass is shown to the mirrors: nobody's; the daemon's, where it would have been shown to
    the origin; or whatever would have been shown to the origin, a caller's credentials included."""

    @field_validator("endpoints")
    @classmethod
    def _endpoints_are_urls(cls, endpoints: tuple[str, ...]) -> tuple[str, ...]:
        for endpoint in endpoints:
            if not re.fullmatch(r"https?://[^/?#@\s]+(/[^?#\s]*)?", endpoint):
                raise ValueError("an endpoint looks like https://mirror.example:9000")
        return tuple(endpoint.rstrip("/") for endpoint in endpoints)


class SourcesSettings(Section):
    """Where models come from."""

    mirrors: tuple[MirrorRule, ...] = ()
    """Other endpoints that have the same models: a list of `match`, `endpoints` and `identity`
    (`anonymous`, the default, `daemon` or `caller`). They are asked when the origin can't be
    reached, is left alone, or still fails after its retries. You vouch for them: what they show is
    the model, under the origin's key. In the environment: JSON."""

    registries: tuple[RegistryRule, ...] = ()
    """Registries by name, in the order in which they are asked for names whose URI names none: a
    list of `name`, `kind`, `url` and more; see docs/sources.md. In the environment: JSON."""

    s3: S3Settings = S3Settings()
    http: HttpSettings = HttpSettings()
    file: FileSettings = FileSettings()
    hf: HubSettings = HubSettings()
    modelscope: ModelScopeSettings = ModelScopeSettings()
    gs: GoogleSettings = GoogleSettings()
    azure: AzureSettings = AzureSettings()
    oci: OciSettings = OciSettings()
    hdfs: HdfsSettings = HdfsSettings()
    git: GitSettings = GitSettings()
    archive: ArchiveSettings = ArchiveSettings()
    egress: EgressSettings = EgressSettings()

    @field_validator("registries")
    @classmethod
    def _names_are_unique(cls, registries: tuple[RegistryRule, ...]) -> tuple[RegistryRule, ...]:
        if len({rule.name for rule in registries}) != len(registries):
            raise ValueError("two registries have the same name")
        return registries

    resolver_idle: Seconds = 60.0
    """Seconds after which the idle resolver process (the one that speaks to source APIs) ends."""

    resolve_timeout: Annotated[float, Field(gt=0)] = 120.0
    """Seconds for listing a model at its source."""

    max_concurrent_listings: Annotated[int, Field(ge=4)] = 32
    """Models that are listed at their sources at the same time; one caller has at most a quarter of
    them. Each may take the memory that the names of its files need."""


class RefreshRule(Section):
    """One entry of `freshness.refresh`."""

    match: str
    """Pattern (`*`, `?`) over the whole URI, or over the origin's endpoint."""

    every: Duration
    """Seconds between looks, or a number with a unit: 90s, 15m, 6h, 1d."""

    ahead: bool = True
    """Fetch a new revision as soon as it is seen. False: when it is asked for, or may move."""

    move: Literal["on_ready", "manual", "schedule"] = "on_ready"
    """When the new revision becomes what is given: as soon as it is here; when an administrator
    promotes it (`cachd promote`); or in the times that `window` says."""

    window: Windows = ()
    """For `move: schedule`, by the daemon's local time: "02:00-04:00", or a list of such, with days
    in front where it isn't for all: "Mon-Fri 02:00-04:00", "Sat,Sun 00:00-24:00"."""

    @model_validator(mode="after")
    def _window_goes_with_schedule(self) -> RefreshRule:
        if bool(self.window) != (self.move == "schedule"):
            raise ValueError("window is for move: schedule, which needs it")
        return self


class FreshnessSettings(Section):
    """When a moving ref is looked at again."""

    interval: Seconds = 60.0
    """Seconds between looks at the source for one ref; in between, what is cached is current."""

    serve_stale: bool = True
    """Serve the cached revision, marked stale, while the source can't be reached."""

    refresh: tuple[RefreshRule, ...] = ()
    """Models that are looked at by schedule, so that a new revision is there before anyone asks: a
    list of `match`, `every` ("15m", "6h"), `ahead` (fetch it at once; true), `move` (`on_ready`,
    `manual` or `schedule`: when it becomes what is given) and `window` ("Mon-Fri 02:00-04:00", for
    `schedule`); the first that matches counts. Looks are only made for what needs no caller's
    credentials; with jitter, one at a time, as a prefetch. In the environment: JSON."""

    refresh_unused: Seconds = 7 * 86400.0
    """Seconds after which a model that nobody asks for is no longer refreshed (counted anew when
    the daemon starts); 0: always refreshed."""
