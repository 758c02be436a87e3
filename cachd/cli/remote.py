"""The daemon over TCP, for a pod without a volume for the socket: TLS, a token, and streams.

Variables that a ClusterStorageContainer can set say where it is, so that a pod needs nothing else.
"""

from __future__ import annotations

import http.client
import re
import socket
import ssl
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from cachd.cli.client import ANSWER_TIMEOUT, CONNECT_TIMEOUT, Client
from cachd.cli.termination import show_uri
from cachd.errors import DaemonUnreachable, InvalidError

if TYPE_CHECKING:
    from collections.abc import Mapping

_PEM = "-----BEGIN"


class _TlsConnection(http.client.HTTPSConnection):
    def __init__(
        self, host: str, port: int, timeout: float, trust: ssl.SSLContext, server_name: str
    ) -> None:
        super().__init__(host, port, timeout=timeout, context=trust)
        self._trust = trust
        self._server_name = server_name

    def connect(self) -> None:
        try:
            sock = socket.create_connection((self.host, self.port), CONNECT_TIMEOUT)
        except TimeoutError:
            raise
        except OSError as error:  # no such name, no way there, nobody there
            raise DaemonUnreachable(
                f"no daemon: {self.host}:{self.port} can't be reached: {error.strerror or error}",
                hint="check CACHD_API, that a daemon runs there with listen.api, and that policies "
                "let this pod speak to it",
                reason="absent",
            ) from error
        try:
            sock.settimeout(self.timeout)
            self.sock = self._trust.wrap_socket(sock, server_hostname=self._server_name)
        except ssl.SSLCertVerificationError as error:
            sock.close()
            raise DaemonUnreachable(
                f"the certificate of the daemon at {self.host}:{self.port} isn't trusted for the "
                f"name {self._server_name}: {error.verify_message}",
                hint="CACHD_API_CA has the authority that signed it, CACHD_API_SERVER_NAME the "
                "name that is in it",
                reason="untrusted",
            ) from error
        except ssl.SSLError as error:
            sock.close()
            raise ConnectionError(error.reason or "no TLS") from error
        except BaseException:
            sock.close()
            raise


class RemoteClient(Client):
    """Calls to a daemon's TCP listener. Errors as those of ``Client``, and ``untrusted``."""

    files_socket = None

    def __init__(
        self,
        url: str,
        token: str,
        trust: ssl.SSLContext,
        server_name: str = "",
        *,
        timeout: float = ANSWER_TIMEOUT,
    ) -> None:
        parts = urlsplit(url)
        self.where = url
        self.timeout = timeout
        self._host, self._port = parts.hostname or "", parts.port or 443
        self._trust = trust
        self._server_name = server_name or self._host
        self._token = token

    def token(self) -> str:
        return self._token

    def _connection(self, timeout: float) -> http.client.HTTPConnection:
        return _TlsConnection(self._host, self._port, timeout, self._trust, self._server_name)


def remote_client(environ: Mapping[str, str]) -> RemoteClient | None:
    """The client that ``CACHD_API`` asks for; None where it isn't set. Raises InvalidError."""
    url = environ.get("CACHD_API", "")
    if not url:
        return None
    if not re.fullmatch(r"https://[^/?#@\s]+/?", url) or not _has_host(url):
        raise InvalidError(
            f"CACHD_API is {show_uri(url)}, which is no address of a daemon",
            field="CACHD_API",
            hint="write https://HOST:PORT; the daemon's API over TCP always has TLS",
        )
    token = environ.get("CACHD_API_TOKEN", "").strip()
    if not token or not token.isascii() or not token.isprintable():
        raise InvalidError(
            "CACHD_API needs the token of the daemon's API, and CACHD_API_TOKEN has none",
            field="CACHD_API_TOKEN",
            hint="let it come from the Secret with the content of the daemon's "
            "listen.api.token_file",
        )
    trust = _trust(environ.get("CACHD_API_CA", ""))
    return RemoteClient(url.rstrip("/"), token, trust, environ.get("CACHD_API_SERVER_NAME", ""))


def _has_host(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _trust(authority: str) -> ssl.SSLContext:
    """``authority``: PEM text, or a file with it; none: the system's."""
    try:
        if _PEM in authority:
            return ssl.create_default_context(cadata=authority)
        return ssl.create_default_context(cafile=authority or None)
    except (OSError, ValueError) as error:
        raise InvalidError(
            f"CACHD_API_CA has no authority: {getattr(error, 'strerror', None) or error}",
            field="CACHD_API_CA",
            hint="PEM text, or the path of a file with it",
        ) from None
