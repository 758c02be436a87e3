"""What a pod has mounted, for the functions that read it: no file is there."""

from __future__ import annotations

from collections.abc import Callable, Mapping

PEM = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"


def reader(files: Mapping[str, str]) -> Callable[[str], str]:
    """Reads ``files`` by their paths."""

    def read(path: str) -> str:
        if path not in files:
            raise FileNotFoundError(2, "No such file or directory", path)
        return files[path]

    return read
