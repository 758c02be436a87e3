"""The words of cachd as data: frozen, without I/O.

*source* where a model comes from · *origin* the very server (scheme + endpoint) · *ref* what was
asked for (URI + effective origin + patterns) · *key* the ref's name on disk · *revision* one
immutable state of a ref at its source · *plan* what a source says a revision holds, and how to
fetch it · *manifest* what a snapshot on disk holds · *part* a range fetched and journalled as one ·
*block* the unit of checksums.
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_left
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

BLOCK_SIZE = 8 * 1024 * 1024
"""Bytes per checksum block. Parts are whole blocks, but for a file's last one."""

Identity = Literal["caller", "daemon", "anonymous"]
"""Whose pass a call at a source uses."""

KEY_LENGTH_DEFAULT = 16
KEY_LENGTH_FULL = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Ref:
    """What was asked for. Two refs are the same model only if every field but ``key`` is equal."""

    uri: str
    origin: str
    allow: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    key: str = field(compare=False)

    def to_json(self) -> dict[str, Any]:
        return {
            "uri": self.uri,
            "origin": self.origin,
            "allow": list(self.allow),
            "ignore": list(self.ignore),
            "key": self.key,
        }

    @staticmethod
    def from_json(data: dict[str, Any]) -> Ref:
        return Ref(
            uri=data["uri"],
            origin=data["origin"],
            allow=tuple(data["allow"]),
            ignore=tuple(data["ignore"]),
            key=data["key"],
        )


def make_ref(
    *,
    uri: str,
    origin: str,
    is_default_origin: bool,
    allow: tuple[str, ...] = (),
    ignore: tuple[str, ...] = (),
) -> Ref:
    """The ref with its key.

    With the daemon's default origin and no patterns the key is the first 16 hex digits of
    sha256(uri), the rule of KServe's LocalModelCache (``GetStorageKey`` in
    pkg/apis/serving/v1alpha1/local_model_cache_types.go); otherwise the first 32 of a sha256 over
    everything, so that the two never meet.
    """
    if is_default_origin and not allow and not ignore:
        key = hashlib.sha256(uri.encode()).hexdigest()[:KEY_LENGTH_DEFAULT]
    else:
        whole = json.dumps([uri, origin, sorted(allow), sorted(ignore)], ensure_ascii=False)
        key = hashlib.sha256(whole.encode()).hexdigest()[:KEY_LENGTH_FULL]
    return Ref(
        uri=uri,
        origin=origin,
        allow=tuple(sorted(allow)),
        ignore=tuple(sorted(ignore)),
        key=key,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Digest:
    """A checksum or digest of one file's bytes, ``value`` in lower-case hex.

    ``sha256`` is strong (may be shared across sources); the others only verify. ``git-sha1`` is the
    name of a blob in git: sha1 over ``blob SIZE``, a NUL and the bytes. Names that end in
    ``-multipart`` are S3's checksums of the parts' checksums (and ETags of that kind); their value
    is followed by ``-`` and the number of parts.
    """

    algorithm: str
    value: str

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.value}"


DIGEST_DIGITS = {
    "sha256": 64,
    "sha1": 40,
    "git-sha1": 40,
    "md5": 32,
    "crc32": 8,
    "crc32c": 8,
    "crc64nvme": 16,
}
"""Hex digits of the digests that can be computed of any file's bytes."""


def parse_digest(text: str) -> Digest:
    """``ALGORITHM:HEX``. Raises ValueError saying what is wrong."""
    algorithm, colon, value = text.strip().partition(":")
    algorithm, value = algorithm.lower(), value.lower()
    digits = DIGEST_DIGITS.get(algorithm)
    if not colon or digits is None:
        raise ValueError(f"must be ALGORITHM:HEX, with one of {', '.join(DIGEST_DIGITS)}")
    if len(value) != digits or not set(value) <= set("0123456789abcdef"):
        raise ValueError(f"must have {digits} hex digits after {algorithm}:")
    return Digest(algorithm=algorithm, value=value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Validator:
    """What tells one state of a file at its origin from another.

    ``etag`` as the origin sent it, quotes and ``W/`` included. ``version_id`` is already part of
    the file's URL.
    """

    etag: str | None = None
    last_modified: str | None = None
    version_id: str | None = None

    @property
    def strong_etag(self) -> str | None:
        """The ETag if it can be used with If-Match (RFC 9110 section 8.8.1)."""
        if self.etag and not self.etag.startswith("W/"):
            return self.etag
        return None

    @property
    def is_usable(self) -> bool:
        """Whether a change at the origin would surely be noticed."""
        return self.strong_etag is not None or self.version_id is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedFile:
    """One file of a plan.

    ``path`` is relative, with ``/``, already checked to be safe. ``size`` in bytes, None where
    the origin doesn't say. ``url`` carries no secret. ``ranges`` False: one stream from the start.
    ``digest`` is what the origin claims of the bytes, where it can be trusted to be that.
    ``blocks``: the checksums that they had elsewhere, where somebody is asked in the origin's place
    who knows them; ``noted_etag``: the origin's ETag, as that one noted it.

    ``range_query``: where ranges are asked for in the query and answered with 200, the query, such
    as ``offset={offset}&length={length}``. ``post``: the body of a POST, whose answer is the file.
    ``headers`` go along with each request for the file, to whatever host; they prove nothing.
    """

    path: str
    url: str
    size: int | None
    validator: Validator = Validator()
    digest: Digest | None = None
    ranges: bool = True
    blocks: tuple[str, ...] = ()
    noted_etag: str | None = None
    range_query: str = ""
    post: str = ""
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedUrl:
    """Where a file of the plan is had for a while: its ``planned`` URL, the one that is called in
    its place, and the headers that go there."""

    planned: str
    url: str = field(repr=False)
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Auth:
    """How a mover proves itself to the origin; lives in memory only, never logged.

    ``kind`` "sigv4": access_key, secret_key, session_token, region, service, signed by the worker
    request by request. "headers": ``headers`` are sent, and ``query`` is added to the URL, at
    ``host`` alone; ``signed`` are files that are had elsewhere. ``expires`` is in seconds since the
    epoch, None for never.
    """

    kind: Literal["none", "sigv4", "headers"] = "none"
    access_key: str = field(default="", repr=False)
    secret_key: str = field(default="", repr=False)
    session_token: str = field(default="", repr=False)
    region: str = ""
    service: str = "s3"
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    query: str = field(default="", repr=False)
    signed: tuple[SignedUrl, ...] = field(default=(), repr=False)
    host: str = ""
    expires: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Connect:
    """How to reach an origin: TLS trust, time limits in seconds.

    ``verify`` False only where a caller or the configuration asked for it. ``ca_pem`` is trusted
    besides the system's authorities. ``client_pem``: certificate and key that are shown, a
    secret. Proxies come from the daemon's environment.
    """

    verify: bool = True
    ca_pem: str | None = None
    client_pem: str = field(default="", repr=False)
    connect_timeout: float | None = None
    read_timeout: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class UnpackRule:
    """What becomes of one fetched file of a plan whose files are not the model's own.

    ``file`` is the planned path. "file": it becomes ``into``. "tar" and "zip": its members below
    ``strip`` go below ``into``, without that prefix; with ``is_overlay`` they replace what came
    before, and whiteouts (OCI image-spec, layer.md) take it away. "git": the answer of a git server
    with a pack, of which ``detail`` says more.
    """

    file: str
    kind: Literal["file", "tar", "zip", "git"]
    into: str = ""
    strip: str = ""
    is_overlay: bool = False
    detail: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """What a registry's name led to: the artifact's canonical URI, its origin, and who said so."""

    uri: str
    origin: str
    registry: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a ref means now, and how to fetch it. Holds credentials: never serialised to disk.

    ``revision`` is lower-case hex, the same for the same content state whatever URL, expiry or
    credentials were used. ``is_immutable``: the ref names this revision for ever (a version id, a
    commit, a digest). ``is_validated`` False: some file has no usable validator.
    ``is_read_proven``: making the plan took reading the very files, not only a listing.
    ``identity``: whose pass saw it. ``mirror``: the endpoint that showed it in its origin's place,
    "" for the origin. ``unpack``: the single file is an archive to be unpacked into
    the tree; "rules": what becomes of each file is said by ``rules``, in their order.
    ``needs_recheck``: nothing tells one state of a file from another while it is fetched, so that
    the source is asked once more at the end. ``metadata``: what is known of the model, for people
    (``cachd.metadata``). ``namespace``: who pays for it, by the cache's own word; None: nobody.
    ``named``: what it is of, where the ref is a registry's name.
    """

    revision: str
    files: tuple[PlannedFile, ...]
    auth: Auth = field(default=Auth(), repr=False)
    connect: Connect = Connect()
    unpack: Literal["", "tar", "zip", "rules"] = ""
    rules: tuple[UnpackRule, ...] = ()
    needs_recheck: bool = False
    is_immutable: bool = False
    is_validated: bool = True
    is_credentialed: bool = False
    is_read_proven: bool = False
    identity: Identity = "anonymous"
    mirror: str = ""
    metadata: dict[str, str] = field(default_factory=dict)
    namespace: str | None = None
    named: Named | None = None

    @property
    def size(self) -> int:
        """Bytes of all files of known size."""
        return sum(f.size or 0 for f in self.files)


@dataclass(frozen=True, slots=True, kw_only=True)
class PartDone:
    """A range that is in place: ``blocks`` are crc64nvme values (16 hex digits) of its blocks."""

    path: str
    offset: int
    length: int
    blocks: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestFile:
    """One file of a snapshot. ``blocks``: crc64nvme (16 hex digits) of each BLOCK_SIZE bytes."""

    path: str
    size: int
    blocks: tuple[str, ...]
    etag: str | None = None
    digests: tuple[Digest, ...] = ()

    @staticmethod
    def from_json(data: dict[str, Any]) -> ManifestFile:
        """Raises KeyError or TypeError if ``data`` is none."""
        return ManifestFile(
            path=data["path"],
            size=data["size"],
            blocks=tuple(data["blocks"]),
            etag=data["etag"],
            digests=tuple(Digest(**digest) for digest in data["digests"]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a snapshot holds. Written once, before the snapshot is published.

    ``files`` are in the order of their paths. ``namespace``: who pays for it; None: nobody.
    """

    ref: Ref
    revision: str
    files: tuple[ManifestFile, ...]
    created: str
    source: str
    is_credentialed: bool
    is_validated: bool
    is_immutable: bool
    identity: Identity = "anonymous"
    block_size: int = BLOCK_SIZE
    boot_id: str = ""
    metadata: dict[str, str] = field(default_factory=dict)
    namespace: str | None = None
    named: Named | None = None
    format: int = 1

    @property
    def size(self) -> int:
        return sum(f.size for f in self.files)

    def find(self, path: str) -> ManifestFile | None:
        """The file of that very path."""
        place = bisect_left(self.files, path, key=lambda file: file.path)
        if place < len(self.files) and self.files[place].path == path:
            return self.files[place]
        return None

    def to_json(self) -> dict[str, Any]:
        data = {f.name: getattr(self, f.name) for f in fields(self)}
        data["ref"] = self.ref.to_json()
        if self.namespace is None:
            del data["namespace"]
        data["named"] = self.named and asdict(self.named)
        # By hand: ``asdict`` takes some twenty times as long, and a model may have 100,000 files.
        data["files"] = [
            {
                "path": f.path,
                "size": f.size,
                "blocks": f.blocks,
                "etag": f.etag,
                "digests": [{"algorithm": d.algorithm, "value": d.value} for d in f.digests],
            }
            for f in self.files
        ]
        return data

    @staticmethod
    def from_json(data: dict[str, Any]) -> Manifest:
        """Raises KeyError, TypeError or ValueError if ``data`` is no manifest of format 1."""
        if data["format"] != 1:
            raise ValueError(f"manifest format {data['format']!r} is not supported")
        if not all(type(text) is str for text in dict.values(data["metadata"])):
            raise TypeError("metadata is no object of texts")
        return Manifest(
            **{name: data[name] for name in _PLAIN},
            ref=Ref.from_json(data["ref"]),
            files=tuple(ManifestFile.from_json(file) for file in data["files"]),
            metadata=data["metadata"],
            namespace=data.get("namespace"),
            named=None if data.get("named") is None else Named(**data["named"]),
        )


_PLAIN = ["revision", "created", "source", "is_credentialed", "is_validated", "is_immutable"]
_PLAIN += ["identity", "block_size", "boot_id"]
