"""Layers built in memory, and what they come to by the specification's words."""

from __future__ import annotations

import tarfile
from typing import TYPE_CHECKING, Any

from awscrt import checksums

from cachd.fetch.arrange import arrange
from cachd.model import BLOCK_SIZE, ManifestFile, UnpackRule
from tests.unpack.archives import LIMITS, Unpacking, member, tar

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from cachd.fetch.unpack import UnpackLimits

Layer = dict[str, bytes | None]
"""Files by name; a name that ends in a slash is a directory."""


def layer(entries: Layer) -> bytes:
    return tar(
        *(
            (member(name, tarfile.DIRTYPE), b"") if body is None else (member(name), body)
            for name, body in entries.items()
        )
    )


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tuple[tarfile.TarInfo, bytes]:
    return member(name, kind, linkname=target), b""


class Arranging(Unpacking):
    """``arrange`` takes what was fetched, by name, and the rules."""

    def arrange(
        self,
        fetched: dict[str, bytes],
        rules: list[UnpackRule],
        limits: UnpackLimits = LIMITS,
        grow: Callable[[int], None] | None = None,
        **more: Any,
    ) -> list[ManifestFile]:
        self.reset()
        place = self.folder / "archive"
        for name, body in fetched.items():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            (place / name).write_bytes(body)
        files = [
            ManifestFile(path=name, size=len(body), blocks=_blocks(body), **more)
            for name, body in fetched.items()
        ]
        return arrange(
            place,
            self.tree,
            rules,
            files,
            limits,
            grow or self.grown.append,
            self._report,
            lambda: False,
        )

    def overlay(self, *layers: bytes, **more: Any) -> dict[str, bytes]:
        """What layers of an image come to."""
        names = [f"layer{number}" for number in range(len(layers))]
        rules = [
            UnpackRule(file=name, kind="tar", strip="models", is_overlay=True) for name in names
        ]
        files = self.arrange(dict(zip(names, layers, strict=True)), rules, **more)
        contents = self.contents()
        self.check_harmless()
        assert [file.path for file in files] == sorted(contents)
        assert {file.path: file.size for file in files} == {k: len(v) for k, v in contents.items()}
        return contents


def _blocks(body: bytes) -> tuple[str, ...]:
    assert len(body) <= BLOCK_SIZE
    return (f"{checksums.crc64nvme(body):016x}",) if body else ()


def reference(layers: list[Layer]) -> dict[str, bytes]:
    """The files in the end: whiteouts of a layer first, for they concern the earlier ones alone."""
    found: dict[str, bytes] = {}
    for entries in layers:
        for name in entries:
            folder, _, base = name.rpartition("/")
            if base == ".wh..wh..opq":
                found = {p: b for p, b in found.items() if p != folder and not _is_in(p, folder)}
            elif base.startswith(".wh."):
                gone = f"{folder}/{base[4:]}" if folder else base[4:]
                found = {p: b for p, b in found.items() if p != gone and not _is_in(p, gone)}
        for name, body in entries.items():
            path = name.rstrip("/")
            above = {path[:at] for at in range(len(path)) if path[at] == "/"}
            if ".wh." in name:
                found = {p: b for p, b in found.items() if p not in above}
                continue
            if body is None:
                above.add(path)
            found = {
                p: b
                for p, b in found.items()
                if p not in above and (body is None or not _is_in(p, path))
            }
            if body is not None:
                found[path] = body
    return found


def _is_in(path: str, folder: str) -> bool:
    return not folder or path.startswith(f"{folder}/")


def random_layers(chance: random.Random) -> list[Layer]:
    """Layers none of which contradicts itself."""
    layers = []
    for number in range(chance.randint(1, 4)):
        entries: Layer = {}
        for _ in range(chance.randint(1, 8)):
            name = "/".join(chance.choices("abc", k=chance.randint(1, 4)))
            taken = {n.rstrip("/") for n in entries}
            above = {name[:at] for at in range(len(name)) if name[at] == "/"}
            if any(entries.get(a) is not None for a in above):
                continue
            kind = chance.choice(("file", "file", "file", "directory", "whiteout", "opaque"))
            folder, _, base = name.rpartition("/")
            if kind == "opaque":
                entries[f"{name}/.wh..wh..opq"] = b""
            elif kind == "whiteout":
                entries[f"{folder}/.wh.{base}".lstrip("/")] = b""
            elif kind == "directory" and name not in taken:
                entries[f"{name}/"] = None
            elif kind == "file" and not any(_is_in(n, name) or n == name for n in taken):
                entries[name] = f"{number} {name}".encode()
        # A file is no directory in its own layer, and a whiteout's directory is one.
        files = [n for n, body in entries.items() if body]
        layers.append(
            {n: b for n, b in entries.items() if not any(n.startswith(f"{f}/") for f in files)}
        )
    return layers


_ODD = ("a", "b", "..", ".", "", "models", ".wh.a", ".wh..wh..opq", ".wh.", ".wh...", ".wh.models")
_USUAL = ("a", "b", "c", ".wh.a", ".wh..wh..opq")
_TARGETS = ("a", "../a", "models/a", "models/a/b", "../models/a", "/a", "..", "x/../../a", "etc")
_KINDS = (
    *[tarfile.REGTYPE] * 5,
    *[tarfile.DIRTYPE] * 2,
    *[tarfile.SYMTYPE, tarfile.LNKTYPE] * 2,
    tarfile.FIFOTYPE,
)


def hostile_layers(chance: random.Random) -> list[bytes]:
    """Layers of anything, and mostly of what contradicts itself."""
    made = []
    for _ in range(chance.randint(1, 4)):
        members = []
        for _ in range(chance.randint(0, 6)):
            parts = chance.choices(
                _ODD if chance.random() < 0.2 else _USUAL, k=chance.randint(1, 4)
            )
            name = chance.choice(["models/"] * 8 + ["", "/", "./"]) + "/".join(parts)
            kind = chance.choice(_KINDS)
            is_link = kind in (tarfile.SYMTYPE, tarfile.LNKTYPE)
            target = chance.choice(_TARGETS) if is_link else ""
            body = b"x" * chance.randint(0, 20) if kind == tarfile.REGTYPE else b""
            members.append((member(name, kind, linkname=target), body))
        made.append(tar(*members))
    return made
