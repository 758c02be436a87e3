"""What a stranger's answer may cost."""

from __future__ import annotations

import hashlib

import pytest

from cachd.errors import ContentError, EgressForbidden, PathUnsafe
from cachd.names import check_tree
from cachd.sources.git_pack import COMMIT, TREE
from cachd.sources.git_tree import leaves_of
from cachd.sources.http_rules import parse_retry_after
from cachd.sources.oci_client import parse_challenges
from tests.origins.fault import Fault, FaultOrigin
from tests.sources.test_calls import client


def test_names_whose_directories_are_too_many() -> None:
    deep = ["/".join([f"{number:04}", *"a" * 2000]) for number in range(40)]
    with pytest.raises(PathUnsafe, match="too many, or too deep"):
        check_tree(deep)
    check_tree(deep[:3])


def test_a_commit_whose_trees_are_in_themselves() -> None:
    """Two entries a level, forty levels: a trillion directories, and no file to count."""
    objects: dict[bytes, tuple[int, bytes]] = {}

    def add(kind: int, word: bytes, data: bytes) -> bytes:
        name = hashlib.sha1(b"%s %d\0" % (word, len(data)) + data).digest()
        objects[name] = (kind, data)
        return name

    tree = add(TREE, b"tree", b"")
    for _ in range(40):
        tree = add(TREE, b"tree", b"40000 a\0" + tree + b"40000 b\0" + tree)
    commit = add(COMMIT, b"commit", b"tree " + tree.hex().encode() + b"\n\n")
    with pytest.raises(ContentError, match="more than 2000000 names"):
        list(leaves_of(objects, commit.hex(), ""))


def test_a_retry_after_of_any_length_is_a_time() -> None:
    assert parse_retry_after("9" * 400) == 86400.0


def test_challenges_of_any_length_are_read_at_once() -> None:
    lines = {"WWW-Authenticate": "B" * 100_000 + ' realm="https://r"'}
    assert parse_challenges(lines) == []
    assert parse_challenges({"WWW-Authenticate": 'Bearer realm="https://r"'})


async def test_what_is_posted_follows_no_redirect_elsewhere() -> None:
    with FaultOrigin() as origin, FaultOrigin() as other:
        origin.put("/token", b"")
        other.put("/token", b"{}")
        away = Fault("redirect", status=307, location=other.url("/token"))
        origin.fault("/token", away)
        async with client() as http:
            with pytest.raises(EgressForbidden, match="another host"):
                await http.call("POST", origin.url("/token"), data=b"refresh_token=secret")
        assert other.seen == []
