"""The termination message: why a container ended, for whoever looks at its pod.

Kubernetes keeps what is in this file as the container's ``message``; KServe shows that as
``status.modelStatus.lastFailureInfo.message`` (PropagateModelStatus in
pkg/apis/serving/v1beta1/inference_service_status.go). Without the file the end of the log serves
(``FallbackToLogsOnError``), whose last lines say the same.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from cachd.cli import render

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cachd.errors import CachdError

PATH = "/dev/termination-log"
VARIABLE = "CACHD_TERMINATION_LOG"

LIMIT = 4096
"""Bytes; Kubernetes cuts what is longer."""


def show_uri(uri: str) -> str:
    """``uri`` for people: without a password, and without a query, which may be a signature."""
    scheme, separator, rest = uri.partition("://")
    if not separator:
        return render.printable(uri)
    rest = rest.partition("?")[0].partition("#")[0]
    place, slash, path = rest.partition("/")
    return render.printable(f"{scheme}://{place.rpartition('@')[2]}{slash}{path}")


def message(error: CachdError, uri: str, environ: Mapping[str, str]) -> str:
    """What happened, to which URI, what to do next, and where to read on."""
    shown = show_uri(uri)
    lines = [error.message if shown in error.message else f"{shown}: {error.message}"]
    if error.hint:
        lines.append(f"next: {error.hint}")
    pod, namespace = environ.get("POD_NAME"), environ.get("POD_NAMESPACE")
    request = error.detail.get("request_id")
    lines.append(f"code: {error.code}" + (f", request {request}" if request else ""))
    if pod:
        where = f" -n {namespace}" if namespace else ""
        lines.append(f"log: kubectl logs {pod}{where} --all-containers")
    return render.printable_lines("\n".join(lines))


def leave(text: str, environ: Mapping[str, str] = os.environ) -> None:
    """Write ``text`` where Kubernetes looks for it, if that place is there."""
    path = Path(environ.get(VARIABLE) or PATH)
    data = text.encode(errors="backslashreplace")
    if len(data) > LIMIT:
        data = data[: LIMIT - 3].decode(errors="ignore").encode() + "…".encode()
    try:
        # Never made: outside of a container there is no such file.
        fd = os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC | os.O_NOCTTY)
    except FileNotFoundError:
        return
    except OSError as failure:
        print(f"cachd: can't write {path}: {failure.strerror}", file=sys.stderr)
        return
    with os.fdopen(fd, "wb") as file:
        file.write(data)
