"""Trees made of several fetched files: layers over one another, files under other names."""

from __future__ import annotations

import gzip
import os
import random
import tarfile
from typing import TYPE_CHECKING

import pytest

from cachd.errors import ArchiveInvalid, ArchiveLimit, DiskFull, NoSpace, NotFound, PathUnsafe
from cachd.fetch.unpack import UnpackLimits
from cachd.model import Digest, UnpackRule
from tests.unpack.archives import COMPRESSIONS, member, tar, tar_of, zip_of
from tests.unpack.layers import (
    Arranging,
    Layer,
    hostile_layers,
    layer,
    link,
    random_layers,
    reference,
)

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def arranging(tmp_path: Path) -> Arranging:
    return Arranging(tmp_path / "work")


def test_later_layers_replace_and_only_the_models_directory_counts(arranging: Arranging) -> None:
    below = layer(
        {"etc/passwd": b"root", "models/": None, "models/config.json": b"1", "models/w/a": b"a"}
    )
    above = layer({"./models/config.json": b"22", "/models/w/b": b"b", "models.txt": b"no"})
    assert arranging.overlay(below, above) == {"config.json": b"22", "w/a": b"a", "w/b": b"b"}


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_layers_of_any_compression(arranging: Arranging, compression: str) -> None:
    packed = COMPRESSIONS[compression](layer({"models/x": b"x" * 100_000}))
    assert arranging.overlay(packed, layer({"models/y": b"y"})) == {"x": b"x" * 100_000, "y": b"y"}


@pytest.mark.parametrize(
    ("above", "left"),
    [
        pytest.param({"models/.wh.a": b""}, {"d/b", "d/e/c"}, id="file"),
        pytest.param({"models/.wh.d": b""}, {"a"}, id="directory"),
        pytest.param({"models/d/.wh..wh..opq": b""}, {"a"}, id="opaque"),
        pytest.param({"models/d/.wh.e": b""}, {"a", "d/b"}, id="inner directory"),
        pytest.param({".wh.models": b"", "models/n": b"n"}, {"n"}, id="the models directory"),
        pytest.param({"models/.wh..wh..opq": b"", "models/n": b"n"}, {"n"}, id="all of it"),
        pytest.param({".wh..wh..opq": b"", "models/n": b"n"}, {"n"}, id="the root"),
        pytest.param({"models/.wh..wh.plnk": b""}, {"a", "d/b", "d/e/c"}, id="for aufs"),
        pytest.param({"models/.wh.none": b""}, {"a", "d/b", "d/e/c"}, id="of nothing"),
        pytest.param({"models/d": b"file"}, {"a", "d"}, id="a file for a directory"),
        pytest.param({"models/a/x": b"x"}, {"a/x", "d/b", "d/e/c"}, id="a directory for a file"),
        pytest.param({"models/a/": None}, {"d/b", "d/e/c"}, id="an empty one"),
    ],
)
def test_whiteouts_and_replacing(arranging: Arranging, above: Layer, left: set[str]) -> None:
    below = layer({"models/a": b"a", "models/d/b": b"b", "models/d/e/c": b"c"})
    assert arranging.overlay(below, layer(above)).keys() == left


def test_a_whiteout_leaves_its_own_layer_alone(arranging: Arranging) -> None:
    below = layer({"models/d/old": b"old", "models/x": b"old"})
    above: Layer = {"models/d/new": b"new", "models/x": b"new"}
    hidden: Layer = {"models/d/.wh..wh..opq": b"", "models/.wh.x": b""}
    for order in ({**above, **hidden}, {**hidden, **above}):
        assert arranging.overlay(below, layer(order)) == {"d/new": b"new", "x": b"new"}


def test_any_layers_come_to_what_the_specification_says(arranging: Arranging) -> None:
    chance = random.Random(7)
    for _ in range(150):
        layers = random_layers(chance)
        wanted = reference(layers)
        packed = [layer({f"models/{n}": b for n, b in entries.items()}) for entries in layers]
        if wanted:
            assert arranging.overlay(*packed) == wanted, layers
        else:
            with pytest.raises(NotFound):
                arranging.overlay(*packed)


def test_layers_of_anything_do_no_harm(arranging: Arranging) -> None:
    chance = random.Random(11)
    seen = set()
    for _ in range(200):
        layers = hostile_layers(chance)
        try:
            arranging.overlay(*layers)
            seen.add("good")
        except (ArchiveInvalid, PathUnsafe, NotFound) as error:
            seen.add(type(error).__name__)
            arranging.check_harmless()
    assert seen == {"good", "ArchiveInvalid", "PathUnsafe", "NotFound"}


def test_links_across_layers(arranging: Arranging) -> None:
    below = tar((member("models/a"), b"first"), link("models/soft", "a"))
    middle = tar(link("models/hard", "models/a", tarfile.LNKTYPE))
    above = tar((member("models/a"), b"second"), link("models/d/far", "../soft"))
    # A hard link is the file that was there, a symbolic one the name.
    assert arranging.overlay(below, middle, above) == {
        "a": b"second",
        "hard": b"first",
        "soft": b"second",
        "d/far": b"second",
    }
    inodes = {name: (arranging.tree / name).stat().st_ino for name in ("a", "soft", "d/far")}
    assert len(set(inodes.values())) == 1


def test_a_link_is_replaced_and_whited_out_like_a_file(arranging: Arranging) -> None:
    below = tar((member("models/a"), b"a"), link("models/l", "a"), link("models/m", "a"))
    assert arranging.overlay(below, layer({"models/l": b"l", "models/.wh.m": b""})) == {
        "a": b"a",
        "l": b"l",
    }


@pytest.mark.parametrize(
    ("name", "target", "kind"),
    [
        pytest.param("models/x", "../../etc/passwd", tarfile.SYMTYPE, id="above the root"),
        pytest.param("models/x", "../etc/passwd", tarfile.SYMTYPE, id="outside models"),
        pytest.param("models/x", "/etc/passwd", tarfile.SYMTYPE, id="absolute"),
        pytest.param("models/x", "d", tarfile.SYMTYPE, id="to a directory"),
        pytest.param("models/x", "x", tarfile.SYMTYPE, id="to itself"),
        pytest.param("models/x", "etc/passwd", tarfile.LNKTYPE, id="hard, outside models"),
        pytest.param("models/x", "models/x", tarfile.LNKTYPE, id="hard, to itself"),
        pytest.param("models/x", "../../outside/secret", tarfile.LNKTYPE, id="hard, above"),
        pytest.param("models/../../outside/x", "a", tarfile.SYMTYPE, id="a hostile name"),
        pytest.param("models/../../outside/x", "models/a", tarfile.LNKTYPE, id="a hostile one"),
    ],
)
def test_links_that_lead_out_are_refused(
    arranging: Arranging, name: str, target: str, kind: bytes
) -> None:
    below = layer({"etc/passwd": b"root", "models/a": b"a", "models/d/b": b"b"})
    with pytest.raises((ArchiveInvalid, PathUnsafe)):
        arranging.overlay(below, tar(link(name, target, kind)))
    arranging.check_harmless()


@pytest.mark.parametrize(
    "above",
    [
        pytest.param(layer({"models/../outside/x": b""}), id="a name"),
        pytest.param(layer({"models//x": b""}), id="an empty component"),
        pytest.param(layer({"models/.wh...": b""}), id="a whiteout of the parent"),
        pytest.param(tar(link("models/d", "../outside"), (member("models/d/x"), b"")), id="a link"),
        pytest.param(tar((member("models/f"), b""), (member("models/f"), b"")), id="twice"),
        pytest.param(tar((member("models/f", tarfile.CHRTYPE), b"")), id="a device"),
        pytest.param(layer({"models": b"a file"}), id="the prefix is a file"),
        pytest.param(b"no tar at all", id="no tar"),
    ],
)
def test_hostile_layers_are_refused(arranging: Arranging, above: bytes) -> None:
    with pytest.raises((ArchiveInvalid, PathUnsafe)):
        arranging.overlay(layer({"models/a": b"a"}), above)
    arranging.check_harmless()


def test_a_name_below_a_link_of_an_earlier_layer_is_refused(arranging: Arranging) -> None:
    below = tar((member("models/v/a"), b"a"), link("models/now", "v/a"))
    with pytest.raises(ArchiveInvalid, match="symbolic link"):
        arranging.overlay(below, layer({"models/now/b": b"b"}))
    # But a directory takes the link's place.
    found = arranging.overlay(below, layer({"models/now/": None, "models/now/b": b"b"}))
    assert found == {"v/a": b"a", "now/b": b"b"}


def test_devices_outside_of_models_are_no_matter(arranging: Arranging) -> None:
    base = tar((member("dev/null", tarfile.CHRTYPE), b""), link("bin", "usr/bin"))
    assert arranging.overlay(base, layer({"models/a": b"a"}), tar()) == {"a": b"a"}


def test_an_image_without_models_says_what_it_has(arranging: Arranging) -> None:
    with pytest.raises(NotFound, match=r"No model found.*below models/.*'etc', 'weights'"):
        arranging.overlay(layer({"etc/passwd": b"x", "weights/w": b"w"}))


def test_limits_hold_for_all_layers_together(arranging: Arranging) -> None:
    layers = [layer({f"models/{n}": bytes(1000)}) for n in range(3)]
    rules = [UnpackRule(file=str(n), kind="tar", strip="models", is_overlay=True) for n in range(3)]
    fetched = {str(n): body for n, body in enumerate(layers)}
    for limits in (
        UnpackLimits(max_bytes=2999, max_members=10, max_ratio=200),
        UnpackLimits(max_bytes=3000, max_members=2, max_ratio=200),
    ):
        with pytest.raises(ArchiveLimit):
            arranging.arrange(fetched, rules, limits)
    arranging.arrange(fetched, rules, UnpackLimits(max_bytes=3000, max_members=3, max_ratio=200))


def test_what_is_skipped_counts_for_the_ratio(arranging: Arranging) -> None:
    bomb = gzip.compress(layer({"junk": bytes(80 << 20)}))
    rules = [UnpackRule(file="b", kind="tar", strip="models", is_overlay=True)]
    with pytest.raises(ArchiveLimit, match="times its size"):
        arranging.arrange(
            {"b": bomb}, rules, UnpackLimits(max_bytes=1 << 40, max_members=10, max_ratio=20)
        )


def test_whiteouts_of_a_large_directory_look_at_it_once(arranging: Arranging) -> None:
    files = [(member(f"models/d/{number}"), b"") for number in range(4000)]
    opaque = [(member("models/d/.wh..wh..opq"), b"") for _ in range(4000)]
    found = arranging.overlay(layer({"models/d/old": b""}), tar(*files, *opaque))
    assert len(found) == 4000


def test_files_get_their_names_without_being_copied(arranging: Arranging) -> None:
    digest = Digest(algorithm="sha256", value="0" * 64)
    rules = [
        UnpackRule(file="one", kind="file", into="deep/model.bin"),
        UnpackRule(file="two", kind="tar", into="more"),
        UnpackRule(file="three", kind="zip"),
    ]
    fetched = {"one": b"1" * 9000, "two": tar_of({"a/b": b"b"}), "three": zip_of({"z": b"z"})}
    files = arranging.arrange(fetched, rules, digests=(digest,))
    assert arranging.contents() == {"deep/model.bin": b"1" * 9000, "more/a/b": b"b", "z": b"z"}
    by_path = {file.path: file for file in files}
    assert by_path["deep/model.bin"].digests == (digest,)
    assert by_path["more/a/b"].digests == ()
    fetched_at = arranging.folder / "archive/one"
    assert fetched_at.stat().st_ino == (arranging.tree / "deep/model.bin").stat().st_ino


def test_where_nothing_can_be_linked_files_are_moved(
    arranging: Arranging, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(1, "no links here")

    def full(_: int) -> None:
        raise DiskFull("no room")

    monkeypatch.setattr(os, "link", refuse)
    rules = [UnpackRule(file="two", kind="file", into="d")]
    rules += [UnpackRule(file="one", kind="file", into=into) for into in ("a", "b/c")]
    fetched = {"one": b"1", "two": b"2"}
    with pytest.raises(DiskFull):
        arranging.arrange(fetched, rules, grow=full)
    # All is there for another try, when there is room.
    left = {name: (arranging.folder / "archive" / name).read_bytes() for name in fetched}
    assert left == fetched
    arranging.arrange(fetched, rules)
    assert arranging.contents() == {"a": b"1", "b/c": b"1", "d": b"2"}
    assert not list((arranging.folder / "archive").iterdir())


@pytest.mark.parametrize(
    ("into", "packed"),
    [("a", {"a": b""}), ("a", {"a/b": b""}), ("a/b", {"a": b""}), ("../x", {}), ("/x", {})],
)
def test_files_that_are_in_each_others_way_are_refused(
    arranging: Arranging, into: str, packed: dict[str, bytes]
) -> None:
    rules = [UnpackRule(file="one", kind="file", into=into)]
    fetched = {"one": b"1"}
    if packed:
        rules.append(UnpackRule(file="two", kind="tar"))
        fetched["two"] = tar_of(packed)
    with pytest.raises(PathUnsafe):
        arranging.arrange(fetched, rules)
    arranging.check_harmless()


def test_archives_that_are_no_layers_never_replace(arranging: Arranging) -> None:
    rules = [UnpackRule(file=name, kind="tar") for name in ("one", "two")]
    with pytest.raises(ArchiveInvalid, match="two members"):
        arranging.arrange({"one": tar_of({"a": b"1"}), "two": tar_of({"a": b"2"})}, rules)
    rules[1] = UnpackRule(file="two", kind="tar", into="two")
    arranging.arrange({"one": tar_of({"a": b"1"}), "two": tar_of({".wh.a": b"2"})}, rules)
    assert arranging.contents() == {"a": b"1", "two/.wh.a": b"2"}


def test_room_is_asked_for_before_it_is_taken(arranging: Arranging) -> None:
    layers = layer({"models/a": bytes(3 << 20)}), layer({"models/b": bytes(1 << 20)})
    arranging.overlay(*layers)
    assert sum(arranging.grown) >= 4 << 20

    def refuse(_: int) -> None:
        raise NoSpace("no room")

    with pytest.raises(NoSpace):
        arranging.overlay(*layers, grow=refuse)
    assert arranging.contents() == {"a": b""}
