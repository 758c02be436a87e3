"""The settings tree: defaults, units and reasons. ``docs/settings.md`` is generated from it.

A value comes from the configuration file (YAML, of which JSON is a part) and, over it, from
environment variables: ``store.quota`` is ``CACHD_STORE_QUOTA``. Unknown names in either are errors.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ByteSize,
    ConfigDict,
    Field,
    ValidationError,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from cachd.environment import CLIENT_VARIABLES, is_service_link
from cachd.errors import ConfigInvalid

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


SMALLEST_QUOTA = 1024**2
"""Bytes; a quota below it is a number whose unit was forgotten."""


def show_bytes(count: int) -> str:
    """``200GiB`` where that is exact, else the bare number: both can be read again."""
    for unit, power in (("TiB", 4), ("GiB", 3), ("MiB", 2), ("KiB", 1)):
        if count and count % 1024**power == 0:
            return f"{count // 1024**power}{unit}"
    return str(count)


class Share(str):
    """Bytes ("200GiB", 1073741824) or a share of the volume ("85%")."""

    __slots__ = ()

    def resolve(self, volume_bytes: int) -> int:
        """Bytes on a volume of ``volume_bytes``."""
        if self.endswith("%"):
            return int(volume_bytes * float(self[:-1]) / 100)
        return int(self)


def _parse_share(value: object) -> Share:
    text = str(value).strip()
    if text.endswith("%"):
        try:
            percent = float(text[:-1])
        except ValueError:
            percent = -1.0
        if not 0 <= percent <= 100:
            raise ValueError("a share is a number from 0% to 100%, such as '85%'")
        return Share(text)
    if re.search("[KMGTPE]i$", text, re.IGNORECASE):
        text += "B"  # as Kubernetes writes quantities
    try:
        size = int(ByteSize._validate(text, None))  # type: ignore[arg-type]
        if size < 0:
            raise ValueError(size)
        return Share(size)
    except ValueError:
        raise ValueError("write bytes or a share, such as 200GiB or 80%") from None


_UNITS_OF_TIME = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def _parse_duration(value: object) -> object:
    match = re.fullmatch(r"\s*(\d*\.?\d+)\s*([smhd])\s*", str(value))
    return float(match[1]) * _UNITS_OF_TIME[match[2]] if match else value


Duration = Annotated[
    float,
    BeforeValidator(_parse_duration),
    Field(gt=0),
    WithJsonSchema({"type": ["string", "number"], "exclusiveMinimum": 0}),
]
"""Seconds, or a number with a unit: 90s, 15m, 6h, 1d."""

ShareOfVolume = Annotated[Share, BeforeValidator(_parse_share)]
ShareOfInodes = Annotated[Share, BeforeValidator(_parse_share)]
Percent = Annotated[float, Field(gt=0, le=100)]
Seconds = Annotated[float, Field(ge=0)]


class _Section(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, arbitrary_types_allowed=True
    )


class KubeletSettings(_Section):
    """kubelet's own eviction thresholds, so that cachd lets idle models go before kubelet evicts
    pods, whoever fills the volume. What must stay free is the largest of these with the margin, and
    of `store.free_floor` and `store.inode_floor`. None: not watched; the chart sets kubelet's
    defaults. Give what `evictionHard` of your nodes says."""

    nodefs_available: ShareOfVolume | None = None
    """kubelet's `nodefs.available` (its default: 10%): bytes or a share. None: no threshold."""

    imagefs_available: ShareOfVolume | None = None
    """kubelet's `imagefs.available` (its default: 15%). Which of the two holds for the cache's
    volume isn't known, so the larger one counts. None: no threshold."""

    nodefs_inodes_free: ShareOfInodes | None = None
    """kubelet's `nodefs.inodesFree` (its default: 5%): a number or a share. None: no threshold."""

    margin: ShareOfVolume = Share("3%")
    """What stays free above kubelet's threshold: it looks every 10 s, and evicting takes time."""

    inodes_margin: ShareOfInodes = Share("1%")
    """The same for inodes."""

    def floor(self, volume_bytes: int) -> int:
        """Bytes that must stay free; 0: no threshold."""
        thresholds = [
            share.resolve(volume_bytes)
            for share in (self.nodefs_available, self.imagefs_available)
            if share is not None
        ]
        return max(thresholds) + self.margin.resolve(volume_bytes) if thresholds else 0

    def inode_floor(self, inodes: int) -> int:
        """Inodes that must stay free; 0: no threshold."""
        if self.nodefs_inodes_free is None:
            return 0
        return self.nodefs_inodes_free.resolve(inodes) + self.inodes_margin.resolve(inodes)


class StoreSettings(_Section):
    """Where models are kept, and how much of the volume they may take."""

    root: Path | None = None
    """Directory that the daemon owns. None: `$XDG_CACHE_HOME/cachd`, else `~/.cache/cachd`."""

    quota: ShareOfVolume = Share("80%")
    """Most that the cache may allocate, reservations included: bytes, or a share of the volume."""

    free_floor: ShareOfVolume = Share("18%")
    """Free space that is left to others. The default lies above kubelet's image-filesystem
    eviction threshold (15 %), so that cachd lets go before kubelet evicts pods."""

    high_watermark: Percent = 95.0
    """Percent of the quota above which idle models are evicted in the background …"""

    low_watermark: Percent = 85.0
    """… until this percent is reached. Lower than `high_watermark`."""

    inode_floor: Percent = 3.0
    """Percent of the volume's inodes that is left to others; kubelet watches them too."""

    min_idle: Seconds = 60.0
    """Seconds since a model's last use before the *background* may evict it. A request that needs
    room may evict an idle model at once."""

    watch_interval: Annotated[float, Field(gt=0)] = 10.0
    """Seconds between looks at the volume, which others write to as well. The nearer its free space
    is to the floor the sooner comes the next look, so that a quick writer is noticed."""

    kubelet_eviction: KubeletSettings = KubeletSettings()

    partial_ttl: Seconds = 86400.0
    """Seconds that an unfinished ingest is kept for resuming."""

    quarantine_ttl: Seconds = 7 * 86400.0
    """Seconds that wrong bytes are kept for a person to look at."""

    quarantine_quota: ShareOfVolume = Share(str(1024**3))
    """Most that wrong bytes kept for a person to look at may take, inside the quota."""

    expected_mount: Path | None = None
    """This path must be a mount point and hold the root; else the daemon refuses to start, so that
    an unmounted disk doesn't fill the system's."""

    expected_volume_id: str | None = None
    """File-system UUID, or the content of a file `.volume-id` at the root's mount point, that must
    be found."""

    standby: bool = False
    """Wait (live, not ready) while another daemon holds the root, instead of refusing to start."""

    @field_validator("quota")
    @classmethod
    def _quota_has_a_unit(cls, quota: Share) -> Share:
        if not quota.endswith("%") and int(quota) < SMALLEST_QUOTA:
            raise ValueError(f"{quota} bytes? write a unit, such as 200GiB")
        return quota

    @model_validator(mode="after")
    def _watermarks_make_sense(self) -> StoreSettings:
        if self.low_watermark >= self.high_watermark:
            raise ValueError(
                f"low_watermark ({self.low_watermark:g}) must be below high_watermark "
                f"({self.high_watermark:g})"
            )
        return self


class ApiTcpSettings(_Section):
    """The API over TCP: only with a token and TLS."""

    address: str | None = None
    """`host:port`; None: off."""

    certificate: Path | None = None
    """PEM file with the certificate chain."""

    private_key: Path | None = None
    """PEM file with the private key."""

    token_file: Path | None = None
    """File holding the bearer token that callers must send. Read again when it changes."""

    role: Literal["pod", "admin"] = "pod"
    """What a caller with the token may do."""

    @model_validator(mode="after")
    def _is_whole(self) -> ApiTcpSettings:
        if self.address and not (self.certificate and self.private_key and self.token_file):
            raise ValueError(
                "the API over TCP needs certificate, private_key and token_file; "
                "for /metrics and probes alone use listen.health_address"
            )
        return self


class ListenSettings(_Section):
    """Sockets. Two of them: pods ask and read; administrators do everything."""

    socket: Path | None = None
    """Socket for pods. None: `$XDG_RUNTIME_DIR/cachd/cachd.sock`, else `/run/cachd/cachd.sock`
    for root, else `/tmp/cachd-<uid>/cachd.sock`."""

    socket_mode: str = "0666"
    """Octal mode of the pods' socket. Pods run as any uid; identity comes from the kernel."""

    socket_group: str | None = None
    """Group (name or number) of the pods' socket."""

    admin_socket: Path | None = None
    """Socket for administrators, mode 0600. None: `admin.sock` beside the pods' socket."""

    max_connections: Annotated[int, Field(ge=4)] = 4096
    """Most connections on the pods' socket, of which one uid gets three quarters; never more than
    half of the daemon's limit of open files. Further ones are closed at once."""

    health_address: str | None = None
    """`host:port` of a plain listener that carries `/metrics`, `/livez` and `/readyz` alone;
    None: off."""

    api: ApiTcpSettings = ApiTcpSettings()

    @model_validator(mode="after")
    def _mode_is_octal(self) -> ListenSettings:
        if not re.fullmatch(r"0?[0-7]{3}", self.socket_mode):
            raise ValueError(f"socket_mode is octal, such as '0666', not {self.socket_mode!r}")
        return self


class FetchSettings(_Section):
    """How bytes are moved from origins."""

    connections: Annotated[int, Field(ge=1, le=512)] = 16
    """Connections in all. A quarter is for models that have none yet."""

    connections_per_origin: Annotated[int, Field(ge=1, le=512)] = 12
    """Connections to one origin (scheme, host, port)."""

    workers: Annotated[int, Field(ge=0, le=64)] = 0
    """Worker processes; 0: one per two cores, at least two."""

    worker_idle: Seconds = 60.0
    """Seconds after which idle workers are ended, and their memory is given back."""

    part_size: ByteSize = ByteSize(16 * 1024**2)
    """Bytes fetched and journalled as one; rounded to whole blocks of 8 MiB."""

    verify_etags: bool = True
    """Compare the ETags of S3 objects that are MD5s, where there is no better checksum. That takes
    1.3 CPU seconds a GB, and bounds one file's speed to what one core sums; without it such
    objects are kept unverified."""

    bandwidth: ByteSize | None = None
    """Bytes per second over all fetches; None: no cap."""

    attempts: Annotated[int, Field(ge=1)] = 6
    """Tries per part before the fetch fails."""

    backoff_base: Annotated[float, Field(gt=0)] = 0.5
    """Seconds before the first retry; doubled each time, with full jitter."""

    backoff_max: Annotated[float, Field(gt=0)] = 30.0
    """Longest wait between tries, unless the origin's Retry-After says more."""

    breaker_failures: Annotated[int, Field(ge=0)] = 8
    """Failed connections and 5xx answers of one origin in a row, over all models, after which it is
    left alone for a while: from `backoff_base` on, doubled up to `backoff_max`, so that one that
    comes back is noticed within that. A 429 or 503 does so at once, for as long as it says. Then
    one call probes it, and the others follow in growing numbers. 0: only 429 and 503 do."""

    origin_patience: Seconds = 10.0
    """Seconds that a new ask waits for an origin that is left alone; where that is not enough it
    fails at once with `origin_busy` or `origin_unreachable` and a Retry-After. What can be served
    stale is, without waiting."""

    connect_timeout: Annotated[float, Field(gt=0)] = 10.0
    """Seconds for DNS, connection and TLS handshake."""

    stall_window: Annotated[float, Field(gt=0)] = 30.0
    """Seconds over which a connection's rate is judged …"""

    stall_floor: ByteSize = ByteSize(16 * 1024)
    """… against this many bytes per second; slower is a stall, and the part is tried again."""

    deadline: Seconds = 0.0
    """Seconds that one model's fetch may take; 0: no limit."""

    linger: Seconds = 300.0
    """Seconds that a fetch goes on when nobody waits for it any more: restarting init containers
    come back. Then it stops, and its journal is kept."""

    max_concurrent_models: Annotated[int, Field(ge=1)] = 64
    """Models fetched at the same time; more wait in the queue. What nobody waits for takes at most
    three quarters of the places."""

    max_queued_models: Annotated[int, Field(ge=1)] = 1000
    """Models that may wait in the queue; more are refused with `overloaded`."""


class S3Settings(_Section):
    """Defaults for `s3://`. A request may say otherwise; then it is another origin."""

    endpoint: str | None = None
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

    @field_validator("endpoint")
    @classmethod
    def _endpoint_has_a_scheme(cls, endpoint: str | None) -> str | None:
        if endpoint and not re.match("https?://", endpoint.strip(), re.IGNORECASE):
            raise ValueError("write http:// or https:// before the host")
        return endpoint


class HttpSettings(_Section):
    """`http(s)://`."""

    check_content_type: bool = True
    """Apply KServe's Content-Type rules: archives by their types, else application/octet-stream.
    HTML is refused in any case."""

    ca_bundle: Path | None = None
    """PEM file trusted besides the system's authorities."""

    max_redirects: Annotated[int, Field(ge=0)] = 5


class FileSettings(_Section):
    """`file://` read by the daemon. (A client's `file://` is read by the client.)"""

    roots: tuple[Path, ...] = ()
    """Directories below which the daemon may read. Empty: nowhere."""


class ArchiveSettings(_Section):
    """Limits on archives that are unpacked."""

    max_bytes: ByteSize = ByteSize(2 * 1024**4)
    """Most bytes that one archive may unpack to."""

    max_members: Annotated[int, Field(ge=1)] = 1_000_000
    """Most members."""

    max_ratio: Annotated[float, Field(gt=1)] = 200.0
    """Most unpacked bytes per packed byte, judged after the first 64 MiB."""


class EgressSettings(_Section):
    """Where a URI may lead. Redirects and DNS answers are checked against it as well."""

    allow_link_local: bool = False
    """Allow link-local, multicast and cloud metadata addresses."""

    allow: tuple[str, ...] = ()
    """Host names (`*.example.com`), addresses or networks (CIDR) that alone may be called; empty:
    every other address."""

    deny: tuple[str, ...] = ()
    """Host names, addresses or networks never to be called."""


class MirrorRule(_Section):
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


class SourcesSettings(_Section):
    """Where models come from."""

    mirrors: tuple[MirrorRule, ...] = ()
    """Other endpoints that have the same models: a list of `match`, `endpoints` and `identity`
    (`anonymous`, the default, `daemon` or `caller`). They are asked when the origin can't be
    reached, is left alone, or still fails after its retries. You vouch for them: what they show is
    the model, under the origin's key. In the environment: JSON."""

    s3: S3Settings = S3Settings()
    http: HttpSettings = HttpSettings()
    file: FileSettings = FileSettings()
    archive: ArchiveSettings = ArchiveSettings()
    egress: EgressSettings = EgressSettings()

    resolver_idle: Seconds = 60.0
    """Seconds after which the idle resolver process (the one that speaks to source APIs) ends."""

    resolve_timeout: Annotated[float, Field(gt=0)] = 120.0
    """Seconds for listing a model at its source."""


class AccessSettings(_Section):
    """Who may have what."""

    share_identity: bool = False
    """The single-tenant switch: let the daemon's own identity (its environment, its profile) serve
    every caller. Off: only callers of its own uid."""

    identity_uids: tuple[int, ...] = ()
    """Further uids that the daemon's own identity serves."""

    open_hits: bool = False
    """Give what is cached to every caller, without asking the source whether the caller may have
    it. For a node whose pods may all read every model."""

    probe_ttl: Seconds = 300.0
    """Seconds that a source's yes to one caller is remembered."""


class RefreshRule(_Section):
    """One entry of `freshness.refresh`."""

    match: str
    """Pattern (`*`, `?`) over the whole URI, or over the origin's endpoint."""

    every: Duration
    """Seconds between looks, or a number with a unit: 90s, 15m, 6h, 1d."""


class FreshnessSettings(_Section):
    """When a moving ref is looked at again."""

    interval: Seconds = 60.0
    """Seconds between looks at the source for one ref; in between, what is cached is current."""

    serve_stale: bool = True
    """Serve the cached revision, marked stale, while the source can't be reached."""

    refresh: tuple[RefreshRule, ...] = ()
    """Models that are looked at by schedule, so that a new revision is there before anyone asks: a
    list of `match` and `every` ("15m", "6h"); the first that matches counts. Only what needs no
    caller's credentials; with jitter, one at a time, as a prefetch. In the environment: JSON."""

    refresh_unused: Seconds = 7 * 86400.0
    """Seconds after which a model that nobody asks for is no longer refreshed (counted anew when
    the daemon starts); 0: always refreshed."""


class LeaseSettings(_Section):
    ttl: Annotated[float, Field(gt=0)] = 3600.0
    """Seconds that a lease lives without renewal, where a request doesn't say."""

    max_ttl: Annotated[float, Field(gt=0)] = 7 * 86400.0
    """Most that a request may ask for."""

    max_per_key: Annotated[int, Field(ge=1)] = 1000
    """Most leases of one model."""

    max_total: Annotated[int, Field(ge=1)] = 100_000
    """Most leases in all."""


class ScrubSettings(_Section):
    """Reading what is cached against its checksums, in idle time."""

    interval: Seconds = 7 * 86400.0
    """Seconds within which everything is read once; 0: never in the background. Disks rot slowly,
    and a week of reading costs little."""

    rate: ByteSize = ByteSize(64 * 1024**2)
    """Bytes per second that are read at most; 0: no limit. Also for `cachd verify`, unless it says
    otherwise. The default leaves most of any disk to others."""

    repair: bool = True
    """Fetch bad blocks again, where that needs no caller's credentials. Off: only find them."""


class LogSettings(_Section):
    format: Literal["text", "json"] = "text"
    level: Literal["debug", "info", "warning", "error"] = "info"


class Settings(_Section):
    """The whole tree."""

    offline: bool = False
    """Never call out: serve what is cached or imported."""

    drain_timeout: Seconds = 20.0
    """Seconds that SIGTERM leaves to running answers; fetches stop at once and keep journals."""

    store: StoreSettings = StoreSettings()
    listen: ListenSettings = ListenSettings()
    fetch: FetchSettings = FetchSettings()
    sources: SourcesSettings = SourcesSettings()
    access: AccessSettings = AccessSettings()
    freshness: FreshnessSettings = FreshnessSettings()
    leases: LeaseSettings = LeaseSettings()
    scrub: ScrubSettings = ScrubSettings()
    log: LogSettings = LogSettings()


def walk_fields(
    section: type[BaseModel] = Settings, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], type[BaseModel], str]]:
    """Every leaf as (path, section class, field name), in the order of declaration."""
    for name, info in section.model_fields.items():
        if isinstance(info.annotation, type) and issubclass(info.annotation, _Section):
            yield from walk_fields(info.annotation, (*path, name))
        else:
            yield (*path, name), section, name


def variable_name(path: tuple[str, ...]) -> str:
    """``("store", "quota")`` → ``CACHD_STORE_QUOTA``. ``listen.socket`` keeps the client's name."""
    if path == ("listen", "socket"):
        return "CACHD_SOCKET"
    if path == ("listen", "admin_socket"):
        return "CACHD_ADMIN_SOCKET"
    return "CACHD_" + "_".join(path).upper()


def unknown_variables(environ: Mapping[str, str]) -> list[str]:
    """``CACHD_*`` names that mean nothing, Kubernetes' service links apart."""
    known = {variable_name(path) for path, _, _ in walk_fields()} | CLIENT_VARIABLES
    return sorted(
        name
        for name in environ
        if name.startswith("CACHD_") and name not in known and not is_service_link(name)
    )


def load_settings(
    file: Path | None,
    environ: Mapping[str, str] = os.environ,
    options: Mapping[str, tuple[str, str]] | None = None,
) -> Settings:
    """Settings from ``file`` under the environment, and ``options`` over both: a setting's name to
    the option that gave it and its text. Raises ConfigInvalid naming every fault and its place."""
    data = _read_file(file) if file else {}
    unknown = unknown_variables(environ)
    if unknown:
        raise ConfigInvalid(
            f"unknown environment variable {', '.join(unknown)}{suggest(unknown[0])}",
            field=unknown[0],
            hint="see docs/settings.md for every name; unset what cachd doesn't know",
        )
    givers: dict[str, str] = {}
    for path, section, name in walk_fields():
        giver, text = variable_name(path), environ.get(variable_name(path))
        if options and ".".join(path) in options:
            giver, text = options[".".join(path)]
        if text is not None:
            _set(data, path, _from_environment(text, section, name), file)
            givers[".".join(path)] = giver
    try:
        return Settings.model_validate(data)
    except ValidationError as error:
        raise _to_config_invalid(error, file, givers) from None


def _read_file(file: Path) -> dict[str, Any]:
    try:
        data = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigInvalid(
            f"can't read the configuration file {file}: {error.strerror}",
            hint="give its path with --config or CACHD_CONFIG",
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigInvalid(
            f"the configuration file {file} is no YAML: {_yaml_fault(error)}",
            hint=f"correct {file}; `cachd check-config` tells when it is right",
        ) from error
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ConfigInvalid(f"the configuration file {file} must hold a mapping of settings")
    return data


def _yaml_fault(error: Exception) -> str:
    """In one line, and without the file's own characters."""
    mark = getattr(error, "problem_mark", None)
    if isinstance(error, yaml.MarkedYAMLError) and mark is not None:
        return f"line {mark.line + 1}, column {mark.column + 1}: {error.problem}"
    if isinstance(error, yaml.reader.ReaderError):
        return f"character {error.position + 1} is not allowed in it"
    return "it is not UTF-8" if isinstance(error, UnicodeDecodeError) else type(error).__name__


def _from_environment(text: str, section: type[BaseModel], name: str) -> Any:
    annotation = str(section.model_fields[name].annotation)
    if "tuple" in annotation:
        if text.lstrip().startswith("["):
            try:
                return json.loads(text)
            except ValueError:
                return text
        return [item.strip() for item in text.split(",") if item.strip()]
    if text == "" and "None" in annotation:
        return None
    return text


def _set(data: dict[str, Any], path: tuple[str, ...], value: Any, file: Path | None) -> None:
    for name in path[:-1]:
        data = data.setdefault(name, {})
        if not isinstance(data, dict):
            raise ConfigInvalid(f"{name} in {file} must be a mapping", field=name)
    data[path[-1]] = value


def _to_config_invalid(
    error: ValidationError, file: Path | None, givers: Mapping[str, str]
) -> ConfigInvalid:
    problems: list[str] = []
    places: dict[str, None] = {}
    for item in error.errors(include_url=False, include_input=False):
        where = ".".join(str(part) for part in item["loc"])
        what = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            what = f"no such setting{suggest(where)}"
        elif item["type"] in ("byte_size", "byte_size_unit"):
            what = "write bytes, such as 16MiB or 16777216"
        problems.append(f"{where}: {what}" if where else what)
        places.update(dict.fromkeys(_places(where, file, givers)))
    first = ".".join(str(part) for part in error.errors()[0]["loc"])
    return ConfigInvalid(
        "; ".join(problems),
        field=first or None,
        hint=f"correct {', '.join(places)}; `cachd check-config` tells when it is right",
    )


def _places(where: str, file: Path | None, givers: Mapping[str, str]) -> list[str]:
    """Who gave the setting ``where``, or a setting in the section of that name."""
    if where in givers:
        return [givers[where]]
    found = [giver for name, giver in givers.items() if not where or name.startswith(f"{where}.")]
    return [*found, *([str(file)] if file else [])] or ["the configuration"]


def suggest(name: str) -> str:
    """`` (did you mean …?)`` for the name of a setting or of its variable, or nothing."""
    import difflib  # noqa: PLC0415  (only on the way to an error)

    paths = [path for path, _, _ in walk_fields()]
    known = (
        [variable_name(path) for path in paths]
        if name.startswith("CACHD_")
        else [".".join(path) for path in paths]
    )
    near = difflib.get_close_matches(name, known, n=1)
    return f" (did you mean {near[0]}?)" if near else ""
