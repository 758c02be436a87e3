"""Write the table of values in the chart's README.md from values.yaml and its comments.

With ``--check`` only say whether it is up to date (status 1: it isn't).
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).parent.parent / "charts" / "cachd"
BEGIN, END = (
    "<!-- values: generated from values.yaml by `make docs` -->\n",
    "<!-- end of values -->\n",
)
_KEY = re.compile(r"^( *)([A-Za-z][A-Za-z0-9_]*):")


def described(text: str) -> dict[tuple[str, ...], str]:
    """What the ``# --`` comments say, by the path of the key that follows."""
    found: dict[tuple[str, ...], str] = {}
    path: list[str] = []
    comment: list[str] = []
    for line in text.splitlines():
        stripped = line.strip()
        if stripped.startswith("# -- "):
            comment = [stripped.removeprefix("# -- ")]
        elif stripped.startswith("#") and comment:
            comment.append(stripped.lstrip("# "))
        elif match := _KEY.match(line):
            path = [*path[: len(match[1]) // 2], match[2]]
            if comment:
                found[tuple(path)] = " ".join(comment)
            comment = []
        else:
            comment = []
    return found


def value_at(values: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        values = values[name]
    return values


def shown(value: Any) -> str:
    """The default in one cell; what is long is left to values.yaml."""
    if isinstance(value, dict | list):
        if not value:
            return "`{}`" if isinstance(value, dict) else "`[]`"
        text = yaml.safe_dump(value, default_flow_style=True, width=1000).strip()
    else:
        text = (
            "empty" if value == "" else str(value).lower() if value in (True, False) else str(value)
        )
        if text == "empty":
            return text
    return f"`{text}`" if len(text) <= 60 else "see values.yaml"


def table(text: str) -> str:
    values = yaml.safe_load(text)
    rows = ["| Value | Default | Meaning |", "|---|---|---|"]
    for path, meaning in described(text).items():
        cell = meaning.replace("|", "\\|")
        rows.append(f"| `{'.'.join(path)}` | {shown(value_at(values, path))} | {cell} |")
    return "\n".join(rows) + "\n"


def generate(readme: str, values: str) -> str:
    head, begin, rest = readme.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise SystemExit("README.md has lost the marks between which the values go")
    return head + BEGIN + "\n" + table(values) + "\n" + END + tail


def main() -> int:
    file = CHART / "README.md"
    before = file.read_text(encoding="utf-8")
    after = generate(before, (CHART / "values.yaml").read_text(encoding="utf-8"))
    if "--check" in sys.argv[1:]:
        if before != after:
            sys.stderr.write("charts/cachd/README.md is out of date: run `make docs`\n")
        return int(before != after)
    file.write_text(after, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
