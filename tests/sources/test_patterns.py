from __future__ import annotations

import pytest

from cachd.errors import PatternInvalid
from cachd.sources.archives import archive_kind
from cachd.sources.patterns import check_patterns, is_wanted


@pytest.mark.parametrize(
    ("path", "allow", "ignore", "wanted"),
    [
        ("a.bin", (), (), True),
        ("a.bin", ("*.safetensors", "*.json"), (), False),
        ("deep/er/a.json", ("*.json",), (), True),
        ("a.bin", (), ("*.bin",), False),
        ("deep/a.bin", (), ("*.bin",), False),
        ("a.json", ("*.json",), ("a.*",), False),
        ("A.JSON", ("*.json",), (), False),
        ("a1.bin", ("a[0-9].bin",), (), True),
        ("x/a.bin", ("x/*",), (), True),
        ("x\ny", ("x*y",), (), True),
    ],
)
def test_patterns(path: str, allow: tuple[str, ...], ignore: tuple[str, ...], wanted: bool) -> None:
    assert is_wanted(path, allow, ignore) is wanted


@pytest.mark.parametrize("patterns", [("",), ("a\0b",), ("x" * 1001,), ("*",) * 257])
def test_nonsense(patterns: tuple[str, ...]) -> None:
    with pytest.raises(PatternInvalid) as caught:
        check_patterns(patterns, "allow")
    assert caught.value.field == "allow"


def test_limits_are_inclusive() -> None:
    check_patterns(("x" * 1000,) * 256, "allow")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("m.tar", "tar"), ("m.tgz", "tar"), ("m.tar.gz", "tar"), ("m.tar.bz2", "tar"),
        ("m.tar.xz", "tar"), ("m.tar.zst", "tar"), ("M.TAR.GZ", "tar"), ("m.zip", "zip"),
        ("m.gz", ""), ("m.joblib.gz", ""), ("tar", ""), ("m.zip.txt", ""), ("m.pt", ""),
    ],
)  # fmt: skip
def test_archives_by_name(name: str, kind: str) -> None:
    assert archive_kind(name) == kind
