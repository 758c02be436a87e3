"""What a row knows of a source."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest

from tests.harness import Daemon, Reply, call
from tests.origins.exchange import Seen
from tests.origins.fault import pattern
from tests.origins.gate import Gate

WORDS = frozenset(
    {
        "archives",  # a single archive is unpacked
        "changes",  # what a URI means can change
        "digests",  # the source says something of the bytes that a wrong one contradicts
        "empty",  # files without bytes
        "exact",  # a URI that names one file of many
        "faults",  # it is reached by HTTP through a gate
        "hostile",  # names that can't be paths
        "huge",  # a listing of 100,000 files
        "keeps",  # a file may be a directory, too
        "markers",  # empty objects that stand for directories
        "names",  # whatever names a file system takes
        "passes",  # credentials
        "patterns",  # allow and ignore
        "public",  # models for everybody
        "ranges",  # parts of a file
        "removal",  # what a URI means can go
        "several",  # models of several files
        "sha256",  # a digest that other sources share
        "subpaths",  # a URI that names a directory of several
        "whole",  # a URI without a path: all there is
    }
)


@dataclass(frozen=True, kw_only=True)
class Pass:
    """What a caller shows. ``secrets`` of it may be nowhere. ``codes``: how it is refused, and
    ``says``: what the error calls it, in any case."""

    credentials: Mapping[str, Any] = field(default_factory=dict)
    secrets: tuple[str, ...] = ()
    codes: tuple[str, ...] = ()
    says: str = ""


NOBODY = Pass(codes=("credentials_missing",))


def passes_of(
    shown: Callable[[str], Mapping[str, Any]],
    good: str,
    wrong: str,
    denied: str,
    *,
    says: str,
    none: Pass = NOBODY,
) -> dict[str, Pass]:
    """Of a source that is ``shown`` one secret. Nobody was given the ``wrong`` one; whoever has
    the ``denied`` one may not read."""

    def refused(secret: str, code: str) -> Pass:
        return Pass(credentials=shown(secret), secrets=(secret,), codes=(code,), says=says)

    return {
        "good": Pass(credentials=shown(good), secrets=(good,)),
        "wrong": refused(wrong, "credentials_invalid"),
        "denied": refused(denied, "access_denied"),
        "none": none,
    }


@dataclass
class Place:
    """Files of one row, apart from those of all others. ``options`` beat the adapter's."""

    adapter: Adapter
    name: str
    files: dict[str, bytes]
    options: Mapping[str, Any] = field(default_factory=dict)

    def uri(self, path: str = "") -> str:
        return self.adapter.uri(self, path)

    def change(self, path: str, body: bytes | None) -> None:
        """Other bytes at ``path``; None: none."""
        self.adapter.change(self, path, body)
        if body is None:
            del self.files[path]
        else:
            self.files[path] = body

    def ask(
        self,
        daemon: Daemon,
        path: str = "",
        who: str = "good",
        *,
        to: str = "",
        patience: float = 60.0,
        **body: Any,
    ) -> Reply:
        """``to``: another route of the API that takes the same body. ``patience`` in seconds."""
        told = {
            "uri": self.uri(path),
            "options": {**self.adapter.options, **self.options},
            "credentials": dict(self.adapter.passes[who].credentials),
            **body,
        }
        return call(daemon.socket, "POST", to or "/v1/models", told, timeout=patience)


class Adapter(ABC):
    """One source. A subclass gives ``put``, ``uri`` and, unless ``lacks`` says otherwise, the rest.

    ``passes``: "good", "wrong" (a secret that isn't one), "none" and "denied" (known, without
    the right). Places are for "good" alone, unless "passes" is lacking.
    """

    name: str
    lacks: ClassVar[Mapping[str, str]] = {}
    settings: Mapping[str, str] = {}
    environ: Mapping[str, str] = {}
    options: Mapping[str, Any] = {}
    passes: Mapping[str, Pass] = {"good": Pass()}
    gate: Gate | None = None

    def __init__(self) -> None:
        self._closing: list[Callable[[], object]] = []
        self._count = 0
        unknown = {word.partition(":")[0] for word in self.lacks} - WORDS
        assert not unknown, unknown

    def close(self) -> None:
        for each in reversed(self._closing):
            each()

    def need(self, *words: str) -> None:
        """Skip the row where the source can't have one of these. ``hostile:KIND``: names of one
        kind of ``rows_names.HOSTILE``."""
        for word in words:
            assert word.partition(":")[0] in WORDS, word
            if word in self.lacks:
                pytest.skip(f"{word}: {self.lacks[word]}")

    def the_gate(self) -> Gate:
        self.need("faults")
        assert self.gate is not None
        return self.gate

    def fresh_bytes(self, size: int) -> bytes:
        """Bytes that no other row has: equal ones are not fetched again where digests are known."""
        self._count += 1
        return pattern(size, self._count)

    def fresh_name(self) -> str:
        self._count += 1
        return f"place{self._count}"

    @abstractmethod
    def put(self, files: Mapping[str, bytes]) -> Place:
        """A place of its own with ``files``."""

    @abstractmethod
    def uri(self, place: Place, path: str) -> str:
        """What names ``path`` of ``place``: a file, a directory, "" for all of it. A slash at the
        end is kept."""

    @abstractmethod
    def change(self, place: Place, path: str, body: bytes | None) -> None:
        """Give the file other bytes, or take it away."""

    @abstractmethod
    def is_data(self, seen: Seen) -> bool:
        """Whether an exchange brings bytes of a file, not of a listing."""

    def holds(self, path: str) -> bool:
        """Whether a file can have that name there."""
        return True

    def can_say(self, path: str) -> bool:
        """Whether a URI can name a file of that name."""
        return self.holds(path)

    def tree(self, place: Place, path: str = "") -> dict[str, bytes]:
        """What is to arrive."""
        path = path.rstrip("/")
        if path in place.files:
            return {path.rpartition("/")[2]: place.files[path]}
        below = f"{path}/" if path else ""
        return {
            name.removeprefix(below): body
            for name, body in place.files.items()
            if name.startswith(below) and not name.endswith("/")
        }

    def put_hostile(self, names: list[str]) -> Place:
        """A place that claims to have files of these names."""
        return self.put(dict.fromkeys(names, b"x"))

    def put_huge(self, number: int) -> Place:
        """A place that lists ``number`` files of one byte."""
        return self.put({f"d{n % 100}/f{n}.bin": b"x" for n in range(number)})

    def put_shared(self, files: Mapping[str, bytes]) -> Place:
        """A place that is read without a pass, and whose source tells the sha256 of ``files``."""
        self.need("sha256", "public")
        return self.put_public(files)

    def put_public(self, files: Mapping[str, bytes]) -> Place:
        """A place that is read without a pass; of adapters that don't lack "public"."""
        raise AssertionError(f"the adapter {self.name} says neither how nor that it lacks it")
