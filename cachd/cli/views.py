"""The pod's own view of a model: the daemon makes it below ``views/<pod>/``, and DEST shows it
where the pod mounts that directory (``subPathExpr: $(POD_UID)``).

Whether DEST is the view is told by device and inode, which no other name of a directory has.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Literal

from cachd.cli import render
from cachd.cli.client import path_of
from cachd.cli.materialise import Materialised
from cachd.cli.places import identity
from cachd.errors import CachdError, DestinationUnusable, InvalidError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

    from cachd.cli.client import Client


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewWish:
    """``name`` is the view's path below the pod's views, "" for the whole; ``is_must``: no copy
    will do."""

    pod: str
    name: str
    mode: Literal["link", "copy"]
    is_must: bool

    def to_json(self) -> dict[str, str]:
        return {"pod": self.pod, "name": self.name, "mode": self.mode}


def wish_of(
    arguments: argparse.Namespace, destination: Path | None, environ: Mapping[str, str]
) -> ViewWish | None:
    """The view that options and environment ask for; None for none. Raises InvalidError."""
    how = arguments.view or "never"
    if how == "never" or destination is None:
        return None
    pod = environ.get("POD_UID", "")
    if not pod:
        if how == "auto":
            return None
        raise InvalidError(
            "--view always needs to know which pod this is",
            field="POD_UID",
            hint="set POD_UID from the downward API: fieldRef: metadata.uid",
        )
    return ViewWish(
        pod=pod,
        name=_name(destination, Path(arguments.view_mount or destination)),
        mode="copy" if arguments.readonly == "false" else "link",
        is_must=how == "always",
    )


def _name(destination: Path, mount: Path) -> str:
    try:
        relative = PurePosixPath(destination).relative_to(PurePosixPath(mount))
    except ValueError:
        relative = PurePosixPath("..")
    if ".." in relative.parts:
        raise InvalidError(
            f"the destination {destination} doesn't lie below {mount}, where views are mounted",
            field="--view-mount",
            hint="name the mount that DEST lies in; views have no other place to be shown",
        )
    return "" if relative == PurePosixPath(".") else str(relative)


def shown(
    client: Client, wish: ViewWish, answer: dict[str, Any], destination: Path
) -> Materialised | None:
    """The result, if ``destination`` shows the view that ``answer`` tells of; else the view is
    given back. Raises DestinationUnusable where it must be one."""
    view = answer.get("view")
    if view and identity(destination) == (view["device"], view["inode"]):
        notes = [str(note) for note in view.get("notes") or ()]
        if view.get("until") == "ttl" and view.get("expires_in"):
            left = render.duration(float(view["expires_in"]))
            notes.append(f"nobody tells this daemon when a pod ends: the view ends in {left}")
        return Materialised(
            way="view",
            seconds=0.0,
            bytes=int(answer["bytes"]),
            files=int(view.get("files", answer["files"])),
            notes=tuple(notes),
        )
    if view and view.get("new"):
        # One that was there is perhaps another container's.
        give_back(client, wish)
    if wish.is_must:
        raise DestinationUnusable(
            f"the destination {destination} doesn't show this pod's view of the model",
            hint="mount the cache's directory views/ there with subPathExpr: $(POD_UID), or let "
            "CACHD_VIEW=auto copy the model instead",
        )
    return None


def give_back(client: Client, wish: ViewWish) -> None:
    """Nobody will see the view. The daemon takes a pod's views away together, so that this is done
    only where it is the pod's only one; else, and where the daemon wants a proof of the pod, it
    ends with the pod."""
    with contextlib.suppress(CachdError):
        listed = client.call("GET", "/v1/views", timeout=10.0).get("views", [])
        others = {view["name"] for view in listed if view["pod"] == wish.pod} - {wish.name}
        is_proven = any(view["pod"] == wish.pod for view in listed)
        if not others and (is_proven or not wish.name):
            client.call("DELETE", path_of("views", wish.pod), timeout=10.0)
