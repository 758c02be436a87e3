"""What the Hugging Face Hub's refusals mean. Pure.

Its answers name their cause in ``X-Error-Code`` and ``X-Error-Message``; what each means is what
its own client makes of it (huggingface_hub, utils/_http.py, ``hf_raise_for_status``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cachd.errors import (
    AccessError,
    CachdError,
    CredentialsInvalid,
    CredentialsMissing,
    NotFound,
    OriginError,
)
from cachd.sources.http_rules import shown
from cachd.sources.hub_client import clip

if TYPE_CHECKING:
    from cachd.sources.http_client import HttpAnswer
    from cachd.sources.hub_client import Hub

_BAD_TOKEN = "Invalid credentials in Authorization header"  # noqa: S105  (the Hub's words)
_DISABLED = "Access to this resource is disabled."


def is_missing_file(answer: HttpAnswer) -> bool:
    """Whether the repository and the revision are there, and the file isn't."""
    return answer.status == 404 and answer.headers.get("X-Error-Code") == "EntryNotFound"


def check(answer: HttpAnswer, hub: Hub) -> None:
    """Raises what the answer says, if it is no success."""
    if answer.status < 400:
        return
    error = _meaning(answer, hub)
    error.detail.update(status=answer.status, origin_code=clip(answer.headers.get("X-Error-Code")))
    raise error


def _meaning(answer: HttpAnswer, hub: Hub) -> CachdError:
    status = answer.status
    code = clip(answer.headers.get("X-Error-Code"))
    message = clip(answer.headers.get("X-Error-Message"))
    said = f"{hub.base} answered {status}" + (f" {code}" if code else "")
    repo, revision = hub.address.repo, hub.address.wanted
    page = f"{hub.base}/{'datasets/' if hub.address.is_dataset else ''}{repo}"
    has_pass = bool(hub.proof.headers)
    if code == "GatedRepo":
        return _gated(f"{repo} is gated, and {hub.who} may not read it: {said}", page, has_pass)
    if code == "RevisionNotFound":
        return NotFound(
            f"{repo} has no revision {revision!r}: {said}",
            hint="a revision is a branch, a tag or a commit: hf://owner/model:revision",
        )
    if code == "EntryNotFound":
        return NotFound(
            f"{repo} has no {hub.address.path or 'such file'} at {revision!r}: {said}",
            hint="check the path after the model's name",
        )
    if message == _DISABLED:
        return AccessError(
            f"{repo} is disabled: {said}",
            hint=f"the hub has taken it out of service; {page} may say why",
        )
    if status == 401 and has_pass and (message == _BAD_TOKEN or code != "RepoNotFound"):
        return CredentialsInvalid(
            f"{hub.who} is refused for {repo}: {said}",
            hint="is it expired or revoked, or of another hub? "
            "Without one, public repositories can still be read",
        )
    if code == "RepoNotFound" or status in (401, 404):
        words = f"there is no {repo}, or {hub.who} may not see it: {said}"
        hint = "check owner and name; if it is private, send a token that may read it (HF_TOKEN)"
        return CredentialsMissing(words, hint=hint) if status == 401 else NotFound(words, hint=hint)
    if status == 403:
        return AccessError(
            f"{hub.who} may not read {repo}: {said}" + (f" ({message})" if message else ""),
            hint="a fine-grained token needs the right to read this repository's contents",
        )
    return OriginError(
        f"{shown(answer.url)} answered {status}" + (f" ({message})" if message else "")
    )


def _gated(words: str, page: str, has_pass: bool) -> CachdError:
    if has_pass:
        return AccessError(
            words,
            hint=f"ask for access at {page} with that token's account; a fine-grained token "
            "also needs the right to read gated repositories",
        )
    return CredentialsMissing(
        words, hint=f"accept its conditions at {page}, and send that account's token (HF_TOKEN)"
    )
