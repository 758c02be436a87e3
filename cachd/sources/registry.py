"""Schemes and who implements them: the built-in ones, and entry points of others.

A third party's package adds a scheme by an entry point in the group ``cachd.sources`` (name: the
scheme, object: a class that is a ``cachd.sources.base.Source``). The built-in schemes are there
even where cachd runs from a plain directory, and can't be replaced.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import logging
import re
from typing import TYPE_CHECKING

from cachd.errors import SchemeUnknown, UriInvalid
from cachd.schemes import OWN_PREFIX, source_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cachd.sources.base import Source

GROUP = "cachd.sources"
REGISTRIES_GROUP = "cachd.registries"
"""Kinds of registries, whose names are schemes too; ``cachd.registries.source`` takes them all."""

_NAMES = "cachd.registries.source:RegistrySource"
MAX_URI = 8192
_SHOWN = 64
"""Characters of a scheme in a message."""

_BUILT_IN = {
    "s3": "cachd.sources.s3:S3Source",
    "http": "cachd.sources.http:HttpSource",
    "https": "cachd.sources.http:HttpSource",
    "file": "cachd.sources.file:FileSource",
    "hf": "cachd.sources.hf:HuggingFaceSource",
    "modelscope": "cachd.sources.modelscope:ModelScopeSource",
    "gs": "cachd.sources.google:GoogleSource",
    "azure": "cachd.sources.azure:AzureSource",
    "abfs": "cachd.sources.azure:AzureSource",
    "abfss": "cachd.sources.azure:AzureSource",
    "wasb": "cachd.sources.azure:AzureSource",
    "wasbs": "cachd.sources.azure:AzureSource",
    "hdfs": "cachd.sources.webhdfs:WebHdfsSource",
    "webhdfs": "cachd.sources.webhdfs:WebHdfsSource",
    "swebhdfs": "cachd.sources.webhdfs:WebHdfsSource",
    "git": "cachd.sources.git:GitSource",
    "git+https": "cachd.sources.git:GitSource",
    "git+http": "cachd.sources.git:GitSource",
    "oci": "cachd.sources.oci:OciSource",
    "oci+native": "cachd.sources.oci:OciSource",
    "oci+fetch": "cachd.sources.oci:OciSource",
    "model-registry": _NAMES,
    "mlflow": _NAMES,
    "models": _NAMES,
    "mlflow-artifacts": "cachd.registries.mlflow_artifacts:MlflowArtifacts",
}
_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*)://")
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f]")

_log = logging.getLogger(__name__)


def split_scheme(uri: str) -> tuple[str, str]:
    """The scheme in lower case, and the URI without ``cachd+`` and with that scheme.

    ``cachd+s3://…`` means ``s3://…``: a prefix that other downloaders of a cluster don't claim.
    Raises UriInvalid.
    """
    if not uri or not uri.strip():
        raise UriInvalid("the URI is empty", field="uri")
    if len(uri) > MAX_URI:
        raise UriInvalid(f"the URI is longer than {MAX_URI} characters", field="uri")
    if _UNPRINTABLE.search(uri):
        raise UriInvalid("the URI holds a control character", field="uri")
    try:
        uri.encode()
    except UnicodeEncodeError:
        raise UriInvalid("the URI is no valid Unicode text", field="uri") from None
    if uri.startswith("models:/") and not uri.startswith("models://"):
        # MLflow writes its URIs with one slash.
        uri = f"models://{uri.removeprefix('models:/')}"
    match = _SCHEME.match(uri)
    if match is None:
        raise UriInvalid(
            "the URI has no scheme",
            field="uri",
            hint="a URI looks like s3://bucket/model or https://host/model.tar.gz",
        )
    scheme = match[1].lower()
    rest = uri[match.end() :]
    if scheme.startswith(OWN_PREFIX):
        scheme = scheme.removeprefix(OWN_PREFIX)
    return scheme, f"{scheme}://{rest}"


class Registry:
    """The known schemes. A source is imported when it is first asked for."""

    def __init__(self, entry_points: Iterable[importlib.metadata.EntryPoint] | None = None) -> None:
        found = (
            importlib.metadata.entry_points(group=GROUP) if entry_points is None else entry_points
        )
        self._kinds = {
            p.name.lower()
            for p in importlib.metadata.entry_points(group=REGISTRIES_GROUP)
            if p.name.lower() not in _BUILT_IN
        }
        self._foreign = {p.name.lower(): p for p in found if p.name.lower() not in _BUILT_IN}
        self._loaded: dict[str, Source] = {}

    @property
    def schemes(self) -> tuple[str, ...]:
        """Every scheme that is known, sorted."""
        return tuple(sorted({*_BUILT_IN, *self._kinds, *self._foreign}))

    def name_of(self, uri: str) -> str:
        """The name of the source that takes ``uri``, as ``split_scheme`` gave it."""
        name = source_of(uri)
        return name if name in _BUILT_IN or name in self._foreign else uri.partition("://")[0]

    def source(self, scheme: str) -> Source:
        """The source of ``scheme``, as ``name_of`` or a location has it. Raises SchemeUnknown, also
        for one that fails to load."""
        source = self._loaded.get(scheme)
        if source is None:
            source = self._loaded[scheme] = self._load(scheme)
        return source

    async def aclose(self) -> None:
        """Close the sources that have something to close (an ``aclose`` of their own)."""
        for source in self._loaded.values():
            close = getattr(source, "aclose", None)
            if close is not None:
                await close()

    def _load(self, scheme: str) -> Source:
        target = _NAMES if scheme in self._kinds else _BUILT_IN.get(scheme)
        if target is not None:
            module, _, name = target.partition(":")
            built_in: Source = getattr(importlib.import_module(module), name)()
            return built_in
        point = self._foreign.get(scheme)
        if point is not None:
            try:
                source: Source = point.load()()
            except ImportError as error:
                # Its scheme stays known: what is missing may be installed yet.
                _log.error(
                    "the source of %s:// (%s) can't be loaded: %s", scheme, point.value, error
                )
                missing = error.name or "a module of it"
                raise SchemeUnknown(
                    f"the source of {scheme}:// ({point.value}) can't be loaded: {error}",
                    field="uri",
                    hint=f"install {missing} where the daemon runs, beside cachd, and restart it",
                ) from None
            except Exception:
                _log.exception("the source of %s:// (%s) can't be loaded", scheme, point.value)
                del self._foreign[scheme]
            else:
                return source
        shown = scheme if len(scheme) <= _SHOWN else f"{scheme[:_SHOWN]}…"
        raise SchemeUnknown(
            f"no source knows {shown}://; known are "
            + ", ".join(f"{known}://" for known in self.schemes),
            field="uri",
            hint=f"a scheme is added by a package with an entry point {shown!r} in {GROUP!r}",
        )
