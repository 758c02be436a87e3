"""``python -m cachd``."""

from __future__ import annotations

import sys

from cachd.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
