"""``python -m bench``: the comparison, or ``--memory``."""

from __future__ import annotations

import argparse
from pathlib import Path

from bench.compare import compare
from bench.memory import measure_memory


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench")
    parser.add_argument("--runs", type=int, default=7, help="turns of each contender")
    parser.add_argument("--tmpfs", default="/dev/shm", help="where origin and destinations lie")
    parser.add_argument("--cases", default="big,small")
    parser.add_argument("--schemes", default="http,https")
    parser.add_argument("--contenders", default="cachd,boto3,s5cmd")
    parser.add_argument("--memory", type=Path, metavar="DIR", help="measure memory, in DIR")
    args = parser.parse_args()
    if args.memory:
        measure_memory(args.memory)
    else:
        compare(args)


main()
