"""What goes wrong on the way to the daemon, and what the daemon says went wrong, as CachdErrors."""

from __future__ import annotations

import http.client
import json
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from cachd.errors import CachdError, DaemonUnreachable, InternalError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


def problem_to_error(problem: Mapping[str, Any]) -> CachdError:
    """The error that a problem+json object describes, its further facts as ``detail``."""
    known = {"type", "title", "status", "detail", "code", "field", "hint", "retry_after", "event"}
    return CachdError.from_wire(
        {
            "code": problem.get("code"),
            "message": problem.get("detail") or problem.get("title") or "the daemon refused",
            "hint": problem.get("hint"),
            "field": problem.get("field"),
            "retry_after": problem.get("retry_after"),
            "detail": {name: value for name, value in problem.items() if name not in known},
        }
    )


def read_problem(response: http.client.HTTPResponse, where: str) -> CachdError:
    with connection_errors(where):
        data = response.read(1024 * 1024)
    try:
        problem = json.loads(data)
    except ValueError:
        problem = None
    if not isinstance(problem, dict):
        return InternalError(
            f"the daemon at {where} answered {response.status} {response.reason}",
            hint="its log says more",
            status=response.status,
        )
    header = response.getheader("Retry-After") or ""
    if "retry_after" not in problem and header.isascii() and header.isdigit():
        problem["retry_after"] = float(header)
    return problem_to_error(problem)


@contextmanager
def connection_errors(where: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise DaemonUnreachable(
            f"no daemon: there is no socket at {where}",
            hint="start it with `cachd serve`, or name its socket with --socket or CACHD_SOCKET",
            reason="absent",
        ) from error
    except ConnectionRefusedError as error:
        raise DaemonUnreachable(
            f"no daemon: nobody listens on {where}",
            hint="the daemon that made this socket has ended; start it with `cachd serve`",
            reason="refused",
        ) from error
    except PermissionError as error:
        raise DaemonUnreachable(
            f"uid {os.geteuid()} may not open the socket {where}",
            hint="run as the daemon's user, or see listen.socket_mode and listen.socket_group; "
            "the administrators' socket is for the daemon's user alone",
            reason="permission",
        ) from error
    except TimeoutError as error:
        raise DaemonUnreachable(
            f"the daemon at {where} doesn't answer",
            hint="`cachd top` and the daemon's log tell what it is doing",
            reason="silent",
        ) from error
    except (ConnectionError, http.client.HTTPException, NotADirectoryError) as error:
        raise DaemonUnreachable(
            f"the connection to the daemon at {where} was lost ({type(error).__name__})",
            hint="it may be restarting; ask again",
            reason="lost",
        ) from error
