"""Sizes for people."""

from __future__ import annotations


def show_size(size: int) -> str:
    """Bytes for people: ``45.4 GiB``."""
    amount = float(size)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "bytes" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.2f} TiB"
