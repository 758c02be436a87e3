"""Sockets and listeners."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    Field,
    model_validator,
)

from cachd.settings.values import (
    Section,
)


class ApiTcpSettings(Section):
    """The API over TCP: only with a token and TLS."""

    address: str | None = None
    """`host:port`; None: off."""

    certificate: Path | None = None
    """PEM file with the certificate chain."""

    private_key: Path | None = None
    """PEM file with the private key."""

    token_file: Path | None = None
    """File holding the bearer token that callers must send. Read again when it changes."""

    role: Literal["pod", "admin", "peer"] = "pod"
    """What a caller with the token may do. `peer` is for other daemons whose `upstream` this is: it
    reads everything that is cached, what needed credentials included, for they have their callers
    proven by the origin; and has what needs no credentials fetched. Nothing else."""

    @model_validator(mode="after")
    def _is_whole(self) -> ApiTcpSettings:
        if self.address and not (self.certificate and self.private_key and self.token_file):
            raise ValueError(
                "the API over TCP needs certificate, private_key and token_file; "
                "for /metrics and probes alone use listen.health_address"
            )
        return self


class ListenSettings(Section):
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
