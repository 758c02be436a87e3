"""What Azure Storage answered, as an error of ours. Status and code decide, never the text.

Codes: "Common REST API error codes", "Blob Storage error codes", "Azure Files error codes".
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from cachd.errors import (
    AccessError,
    CachdError,
    CredentialsInvalid,
    CredentialsMissing,
    InvalidError,
    NotFound,
    OriginBusy,
    OriginError,
)
from cachd.sources import azure_xml

if TYPE_CHECKING:
    from cachd.sources.azure_identity import Pass
    from cachd.sources.azure_location import AzureAddress
    from cachd.sources.http_client import HttpAnswer

_CODE = re.compile(r"^[A-Za-z0-9_.]{1,80}$", re.ASCII)
_INVALID = {"AuthenticationFailed", "InvalidAuthenticationInfo", "NoAuthenticationInformation"}
_NAMES = {"InvalidUri", "InvalidResourceName", "OutOfRangeInput", "InvalidQueryParameterValue"}
_MISSING = {"ContainerNotFound", "ShareNotFound", "ContainerBeingDeleted", "ShareBeingDeleted"}
_SEND = (
    "send an account's key, a shared access signature or a service principal "
    "(AZURE_STORAGE_ACCESS_KEY, AZURE_STORAGE_SAS_TOKEN, AZURE_CLIENT_ID … in the environment of "
    "`cachd pull`), or give the daemon one in its own"
)


def code_of(answer: HttpAnswer) -> str:
    """Azure's word for what went wrong, "" where it says none."""
    code = answer.headers.get("x-ms-error-code", "")
    if not code and answer.body:
        try:
            code = azure_xml.parse(answer.body).code
        except ValueError:
            code = ""
    return code if _CODE.match(code) else ""


def check(answer: HttpAnswer, base: str, address: AzureAddress, identity: Pass) -> None:
    """Raises what a status that isn't 2xx means."""
    if answer.status >= 300:
        raise _error(answer, base, address, identity)


def _error(answer: HttpAnswer, base: str, address: AzureAddress, identity: Pass) -> CachdError:
    status, code = answer.status, code_of(answer)
    said = f"{status} {code}".strip()
    what = f"the {address.kind} {address.container}"
    if status in (429, 503):
        return OriginBusy(f"{base} is busy ({said})", retry_after=answer.retry_after)
    if code in _MISSING:
        return NotFound(
            f"{what} does not exist at {base} ({said})",
            hint="check the account's name, and the one after it",
        )
    is_hidden = status == 404 and code in ("ResourceNotFound", "")
    if not identity.is_signed and (
        status in (401, 403) or code == "PublicAccessNotPermitted" or is_hidden
    ):
        return CredentialsMissing(
            f"authentication is needed: {base} shows {what} to no anonymous request ({said}), and "
            "no credentials were found" + ("; or it isn't there" if is_hidden else ""),
            hint=_SEND,
        )
    if status == 401 or code in _INVALID:
        return CredentialsInvalid(
            f"authentication failed at {base}: it refuses {identity.who} ({said})",
            hint="has it ended, is it another account's, or is this node's clock off?",
        )
    if status == 403:
        return AccessError(
            f"access denied to {what} at {base} for {identity.who} ({said})",
            hint="it needs to read and to list: sp=rl of a signature, the role Storage Blob Data "
            "Reader, or a key where the account allows keys; and the account's firewall lets it in",
        )
    if status == 404:
        return NotFound(f"{what} has no such path at {base} ({said})", hint="check the path")
    if status == 400 and code in _NAMES:
        return InvalidError(f"{base} refuses {what}, or the path in it ({said})", field="uri")
    return OriginError(f"{base} answered {said}", status=status)
