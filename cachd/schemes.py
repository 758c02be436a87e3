"""Which source a URI is for. Pure, and light: the client decides by it what to send along."""

from __future__ import annotations

import re
from typing import Final

OWN_PREFIX: Final = "cachd+"
REGISTRIES: Final = frozenset({"model-registry", "mlflow", "models"})
"""Schemes whose URIs a registry turns into others."""

_HADOOP: Final = frozenset({"abfs", "abfss", "wasb", "wasbs"})
"""What Hadoop calls blobs at Azure."""

_MLFLOW: Final = "models:/"
"""MLflow writes its URIs with one slash."""

_CLAIMS: Final = (
    # KServe's regular expressions for the same (python/storage/kserve_storage/kserve_storage.py:
    # _BLOB_RE, _FILE_RE, _GIT_RE), which it searches for anywhere in the URI.
    (
        re.compile(
            r"https://[^/?#]+\.(?:z\d{1,2}\.)?(?:blob|file)\.(?:core\.windows\.net|"
            r"storage\.azure\.net|core\.chinacloudapi\.cn|core\.usgovcloudapi\.net)(?::\d+)?/",
            re.IGNORECASE,
        ),
        "azure",
    ),
    (re.compile(r"https?://[^?#]+\.git(?:[/@?#]|$)", re.IGNORECASE), "git"),
)


def scheme_of(uri: str) -> str:
    """The scheme in lower case, without ``cachd+``; empty for a bare path."""
    if uri.startswith(_MLFLOW):
        return "models"
    scheme, separator, _ = uri.partition("://")
    return scheme.lower().removeprefix(OWN_PREFIX) if separator else ""


def source_of(uri: str) -> str:
    """The name of the source that takes ``uri``: its scheme, or who else claims it."""
    scheme = scheme_of(uri)
    if scheme in _HADOOP:
        return "azure"
    plain = f"{scheme}://{uri.partition('://')[2]}"
    for pattern, name in _CLAIMS:
        if pattern.match(plain):
            return name
    return scheme
