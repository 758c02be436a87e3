"""A share of Azure Files as the tests name it, and the call under test at its fake."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cachd.credentials import Credentials
from tests.servers.azurefiles import ACCOUNT, KEY
from tests.sources.asking import resolve_once

if TYPE_CHECKING:
    from cachd.model import Plan

W = b"weights" * 1000
SHARE = f"https://{ACCOUNT}.file.core.windows.net"
OWN = Credentials(azure_account_key=KEY)


async def resolve(uri: str, credentials: Credentials = OWN, **kwargs: Any) -> Plan:
    """With the account's key, if nothing else is said."""
    return await resolve_once(uri, credentials, **kwargs)
