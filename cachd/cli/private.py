"""``python -m cachd.cli.private``: the daemon of one pull, which ends with it.

Standard input is a pipe from that pull. When it closes, for whatever reason, this process ends too.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading

from cachd.cli.output import report
from cachd.errors import CachdError


def main() -> int:
    threading.Thread(target=_follow, name="parent", daemon=True).start()
    from cachd.daemon import serve  # noqa: PLC0415  (loads the whole daemon)
    from cachd.settings import load_settings  # noqa: PLC0415

    try:
        return asyncio.run(serve(load_settings(None)))
    except CachdError as error:
        report(error, as_json=False)
        return 1


def _follow() -> None:
    os.read(0, 1)
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
