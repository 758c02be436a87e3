"""KServe's storage-initializer contract: ``cachd URI DEST [URI DEST…]``, without a command.

KServe starts the image with such arguments and nothing else (``CreateInitContainerWithConfig`` in
pkg/utils/storage.go); what it expects is in python/storage-initializer/scripts/
initializer-entrypoint: pairs in order, destinations made, usage on standard output for odd
arguments, exit code 1 for every failure.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from cachd.schemes import scheme_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

USAGE = """\
usage: cachd URI DEST [URI DEST…]

Has each model fetched by the node's cache and brings it into its directory, in order, as KServe's
storage initializer does. Options are environment variables: see cachd pull --help. Other commands:
see cachd --help."""


def is_meant(argv: Sequence[str]) -> bool:
    """Whether these are an initializer's arguments: a URI or an absolute path comes first, which
    no command's name looks like. No arguments at all are an initializer's that KServe forgot."""
    return not argv or bool(scheme_of(argv[0])) or argv[0].startswith("/")


def run(argv: Sequence[str], pull: Callable[[str, str], int]) -> int:
    """Do every pair with ``pull``; the exit code."""
    if not argv or len(argv) % 2:
        print(USAGE)
        sys.stdout.flush()
        return 1
    # Each pull makes its own destination; the first failure is the last thing that is said.
    return int(any(pull(uri, place) for uri, place in zip(argv[::2], argv[1::2], strict=True)))
