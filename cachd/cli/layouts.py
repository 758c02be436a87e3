"""``--layout hf-cache``: a model of the Hugging Face Hub where huggingface_hub looks for it.

A pod that is told HF_HUB_CACHE=DEST and HF_HUB_OFFLINE=1 then loads ``owner/model`` as if it had
downloaded it. The form is that of huggingface_hub's cache (huggingface.co/docs/huggingface_hub/
guides/manage-cache)::

    DEST/models--OWNER--NAME/snapshots/COMMIT/…      the files
    DEST/models--OWNER--NAME/refs/REVISION           the commit that a branch or tag meant

The library makes links in ``snapshots/`` to files in ``blobs/``. Here ``snapshots/`` has the files
themselves, as the library itself does it where there are no links: none can lead anywhere else, a
snapshot can be mounted by itself, and files come by the same ways as into any other destination.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from cachd.cli.staging import translated
from cachd.errors import ContentError, InvalidError
from cachd.schemes import source_of
from cachd.sources.hub_uri import is_commit, parse_hub

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator
    from pathlib import Path

    from cachd.sources.hub_uri import HubAddress


class HubCache:
    """Where one URI's files go below a destination."""

    def __init__(self, address: HubAddress) -> None:
        self._address = address
        kind = "datasets" if address.is_dataset else "models"
        self._repository = f"{kind}--{address.owner}--{address.name}"

    @contextlib.contextmanager
    def place(self, destination: Path, answer: dict[str, Any]) -> Iterator[Path]:
        """The directory for the files of the revision that ``answer`` names. When the block ends
        well the revision's name leads there; until then nothing does."""
        commit = str(answer["revision"])
        if not is_commit(commit):
            raise ContentError(
                f"the daemon's revision {commit} of {answer['uri']} is no commit",
                hint="it was imported: pull it without --layout",
            )
        repository = destination / self._repository
        folder = repository / "snapshots" / commit
        if self._address.is_commit:
            yield folder
            return
        ref = repository / "refs" / self._address.wanted
        # One that a killed run left is overwritten by the next.
        new = repository / f".cachd-ref-{self._address.wanted.replace('/', '--')}"
        made: list[Path] = []
        try:
            with translated(ref):
                _make(ref.parent, made)
                new.write_text(commit, encoding="ascii")
            yield folder
            with translated(ref):
                new.replace(ref)
        except BaseException:
            with contextlib.suppress(OSError):
                new.unlink(missing_ok=True)
            for directory in reversed(made):
                with contextlib.suppress(OSError):
                    directory.rmdir()
            raise


def layout_of(arguments: argparse.Namespace) -> HubCache | None:
    """The one that the options ask for; None for plain. Raises InvalidError."""
    if arguments.layout in (None, "plain"):
        return None
    if source_of(arguments.uri) != "hf":
        raise InvalidError(
            "the layout hf-cache is for hf:// URIs",
            field="--layout",
            hint="pull this one without it, in a container of its own",
        )
    if not arguments.destination:
        raise InvalidError(
            "--layout needs a destination",
            field="--layout",
            hint="name the directory that HF_HUB_CACHE will be",
        )
    if arguments.view == "always":
        raise InvalidError(
            "--layout hf-cache and --view always contradict each other",
            field="--layout",
            hint="a view shows a model as it is; leave out one of them",
        )
    address = parse_hub(f"hf://{arguments.uri.partition('://')[2]}")
    if address.path:
        raise InvalidError(
            "the layout hf-cache is for whole repositories",
            field="--layout",
            hint=f"leave out the path and choose by patterns: --allow '{address.path}/*'",
        )
    return HubCache(address)


def _make(directory: Path, made: list[Path]) -> None:
    missing = []
    while not directory.is_dir():
        missing.append(directory)
        directory = directory.parent
    for one in reversed(missing):
        one.mkdir(mode=0o755)
        made.append(one)
