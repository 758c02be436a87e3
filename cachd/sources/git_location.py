"""What git's URIs mean. Pure.

``https://host/owner/repo.git[@ref][/directory]`` is the canonical form; ``?ref=`` and ``?path=``
say the same, and ``git+https://`` also takes a repository whose name doesn't end in ``.git``. A
slash in a ref is ``%2F`` after the ``@``. What makes a URI one of git's is KServe's rule
(``_GIT_RE`` in python/storage/kserve_storage/kserve_storage.py).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from cachd.errors import UriInvalid
from cachd.sources.http_rules import authority, split_url

_REPOSITORY = re.compile(r"(?P<repo>/[^?#]*?\.git)(?:@(?P<ref>[^/]*))?(?P<path>/.*)?", re.DOTALL)
_ANY_REPOSITORY = re.compile(r"(?P<repo>/[^?#@]*[^?#@/])/?(?:@(?P<ref>[^/]*)(?P<path>/.*)?)?")
_REF_MOST = 512
_SAFE = "-._~!$&'()*+,;=:"
"""What needs no escape in a path's part (RFC 3986), but for ``@``, which means something here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GitAddress:
    """``repository``: its URL. ``ref``: a branch, a tag, a full name or a whole commit, "" for what
    HEAD is. ``username``: from the URL. ``path``: a directory or a file, "" for all."""

    uri: str
    repository: str
    ref: str
    path: str
    username: str = field(default="", repr=False)

    @property
    def host(self) -> str:
        return authority(urlsplit(self.repository))

    @property
    def commit(self) -> str:
        """The commit that the ref names for ever, "" if it may change."""
        return self.ref.lower() if re.fullmatch(r"[0-9a-fA-F]{40}", self.ref) else ""


def parse(uri: str) -> GitAddress:
    """Raises UriInvalid saying which part is wrong."""
    plain, is_explicit = uri.removeprefix("git+"), uri.startswith("git+")
    if plain.startswith("git://"):
        raise UriInvalid("git:// isn't spoken", field="uri", hint="write https://host/repo.git")
    scheme, _, rest = plain.partition("://")
    place, slash, after = rest.partition("/")
    user, at, host = place.rpartition("@")
    parts = split_url(f"{scheme}://{host}{slash}{after}")
    if parts.fragment:
        raise _wrong("has a fragment", "a ref follows an @: repo.git@main")
    match = _REPOSITORY.fullmatch(parts.path)
    if match is None and is_explicit:
        match = _ANY_REPOSITORY.fullmatch(parts.path)
    if match is None:
        raise _wrong("names no repository", "such as https://host/owner/repo.git")
    ref, path = _query(parts.query)
    ref = _one("ref", _decoded(match["ref"] or ""), ref, has_sign=match["ref"] is not None)
    path = _one("path", _decoded(match["path"] or "").strip("/"), path.strip("/"))
    repository = f"{parts.scheme.lower()}://{authority(parts)}{match['repo']}"
    _check(ref, path)
    prefix = "" if match["repo"].endswith(".git") else "git+"
    canonical = prefix + repository + (f"@{quote(ref, safe=_SAFE)}" if ref else "")
    if path and prefix and not ref:
        canonical += f"?path={quote(path, safe='/')}"
    elif path:
        canonical += f"/{quote(path, safe='/' + _SAFE)}"
    # A password in a URL is never used: KServe's initializer doesn't either.
    username = unquote(user.partition(":")[0]) if at else ""
    return GitAddress(uri=canonical, repository=repository, ref=ref, path=path, username=username)


def _query(query: str) -> tuple[str, str]:
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=True) if query else []
    except ValueError:
        raise _wrong("has a query that can't be read", "such as ?ref=main&path=sub/dir") from None
    found = dict(pairs)
    if len(found) < len(pairs) or not set(found) <= {"ref", "path"}:
        raise _wrong("has a query with more than ref and path", "such as ?ref=main&path=sub/dir")
    if not all(value.strip("/") for value in found.values()):
        raise _wrong("has an empty ref or path in its query", "leave out what isn't meant")
    return found.get("ref", ""), found.get("path", "")


def _one(what: str, written: str, asked: str, *, has_sign: bool = False) -> str:
    if has_sign and not written:
        raise _wrong("has no ref after the @", "such as repo.git@main")
    if written and asked and written != asked:
        raise _wrong(f"says two {what}s", f"one by repo.git@ref/path, the other by ?{what}=")
    return written or asked


def _check(ref: str, path: str) -> None:
    # What git itself allows in a ref (git-check-ref-format), as far as it matters to a request.
    if len(ref) > _REF_MOST or re.search(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|^-|^/|/$", ref):
        raise _wrong("has a ref that can't be one", "a branch, a tag, or a commit's 40 digits")
    if any(part in {"", ".", ".."} for part in path.split("/")) and path:
        raise _wrong("has a path with '.', '..' or '//' in it", "the path begins at the top")


def _decoded(text: str) -> str:
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise _wrong("isn't UTF-8 once it is decoded", "escape names as UTF-8") from None


def _wrong(what: str, hint: str) -> UriInvalid:
    return UriInvalid(f"the git URI {what}", field="uri", hint=hint)
