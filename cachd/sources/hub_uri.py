"""URIs of model hubs: ``hf://owner/model[:revision][/path]``, and ``modelscope://`` alike. Pure,
and light: the client reads them too.

The form and the words of its faults are KServe's (python/storage/kserve_storage/kserve_storage.py,
``_download_hf`` and ``_download_ms``), which knows no path below the model. A revision is a branch,
a tag or a commit; of those with a slash ``refs/pr/N`` and ``refs/convert/NAME`` are known as they
are, in others the slash is written ``%2F``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from cachd.errors import UriInvalid
from cachd.sources.hubs import HUBS, HubNames

_DATASETS: Final = "datasets/"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,95}")
_SPECIAL = re.compile(r"refs/(?:pr/\d+|convert/[\w-]+)(?=/|$)", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class HubAddress:
    """What a hub's URI names. ``revision`` "": the default branch; ``path`` "": all of it, without
    slashes at its ends. ``is_dataset``: a dataset's repository and no model's."""

    scheme: str
    owner: str
    name: str
    revision: str = ""
    path: str = ""
    is_dataset: bool = False

    @property
    def repo(self) -> str:
        return f"{self.owner}/{self.name}"

    @property
    def wanted(self) -> str:
        """The revision to ask for."""
        return self.revision or HUBS[self.scheme].branch

    @property
    def is_commit(self) -> bool:
        """Whether the revision can never mean anything else."""
        return is_commit(self.revision)

    @property
    def uri(self) -> str:
        revision = self.revision
        if revision and not _SPECIAL.fullmatch(revision):
            revision = revision.replace("/", "%2F")
        return (
            f"{self.scheme}://{_DATASETS if self.is_dataset else ''}{self.repo}"
            f"{':' if revision else ''}{revision}{'/' if self.path else ''}{self.path}"
        )


def is_commit(text: object) -> bool:
    """Whether ``text`` is a commit's whole name, in lower case."""
    return isinstance(text, str) and _COMMIT.fullmatch(text) is not None


def parse_hub(uri: str) -> HubAddress:
    """Raises UriInvalid saying which part is wrong."""
    scheme, _, rest = uri.partition("://")
    hub = HUBS[scheme]
    is_dataset = scheme == "hf" and rest.startswith(_DATASETS) and rest.count("/") > 1
    rest = rest.removeprefix(_DATASETS) if is_dataset else rest
    owner, slash, rest = rest.partition("/")
    if "@" in owner:
        raise UriInvalid(
            f"a {scheme}:// URI can't carry user information",
            field="uri",
            hint="send a token as a credential of the request",
        )
    if not slash or (not owner and not rest):
        raise UriInvalid(
            f"Invalid {hub.title} URI format. Expected '{scheme}://owner/model[:revision]', "
            f"got {uri[:200]!r}",
            field="uri",
            hint=f"write the owner as well, such as {scheme}://qwen/qwen2-7b",
        )
    if not owner:
        raise _fault(hub, "the repository owner cannot be empty")
    head = re.match("[^:/]*", rest)
    name = head[0] if head else ""
    rest = rest[len(name) :]
    if not name:
        raise _fault(hub, "the model name cannot be empty")
    for what, text in (("owner", owner), ("model name", name)):
        if not _NAME.fullmatch(text) or ".." in text or (scheme == "hf" and "--" in text):
            raise _fault(hub, f"{text[:100]!r} can't be {'an' if what == 'owner' else 'a'} {what}")
    revision, path = _split_revision(rest[1:], hub) if rest[:1] == ":" else ("", rest)
    path = path.strip("/")
    if any(part in {"", ".", ".."} for part in path.split("/")) and path:
        raise _fault(hub, "the path has an empty part, '.' or '..'")
    return HubAddress(
        scheme=scheme,
        owner=owner,
        name=name,
        revision=revision,
        path=path,
        is_dataset=is_dataset,
    )


def _split_revision(rest: str, hub: HubNames) -> tuple[str, str]:
    special = _SPECIAL.match(rest)
    revision, _, path = rest.partition("/")
    if special:
        revision, path = special[0], rest[special.end() :]
    revision = re.sub("%2f", "/", revision, flags=re.IGNORECASE)
    if not revision:
        raise _fault(hub, "the revision cannot be empty")
    # What git allows of a reference's name (git-check-ref-format).
    if re.search(r"[\s~^:?*\[\\\x7f]|\.\.|@\{|//|/$|^[/-]", revision) or len(revision) > 255:
        raise _fault(hub, f"{revision[:100]!r} can't be a revision")
    return revision, path


def _fault(hub: HubNames, what: str) -> UriInvalid:
    scheme = hub.scheme
    return UriInvalid(
        f"Invalid {hub.title} URI: {what}",
        field="uri",
        hint=f"it looks like {scheme}://owner/model, {scheme}://owner/model:revision or "
        f"{scheme}://owner/model:revision/path",
    )
