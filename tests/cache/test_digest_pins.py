"""What pins ask for, and what they say of bytes."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachd.cache.digest_pins import DigestPins, judge, model_digest, needed
from cachd.model import DIGEST_DIGITS, Digest, ManifestFile, parse_digest


def digest(data: bytes, algorithm: str = "sha256") -> Digest:
    return Digest(algorithm=algorithm, value=hashlib.new(algorithm, data).hexdigest())


def test_names_are_written_as_sha256sum_writes_them(tmp_path: Path) -> None:
    names = ["a", "a.b", "a/b", "A", "é", "sp ace", "-dash", "back\\slash", "new\nline", "\udcff"]
    for name in names:
        place = tmp_path / (name if name != "a" else "a-file")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(name.encode(errors="surrogateescape"))
    printed = subprocess.run(
        "find . -type f -printf '%P\\0' | LC_ALL=C sort -z | xargs -0 sha256sum -- | sha256sum",
        shell=True, cwd=tmp_path, capture_output=True, text=True, check=True,
    ).stdout.split()[0]  # fmt: skip
    sums = {
        os.fsdecode(place.relative_to(tmp_path)): digest(place.read_bytes()).value
        for place in tmp_path.rglob("*")
        if place.is_file()
    }
    assert len(sums) == len(names)
    assert model_digest(sums) == printed


@given(st.text(max_size=80))
def test_a_digest_is_read_or_refused(text: str) -> None:
    try:
        found = parse_digest(text)
    except ValueError:
        return
    assert len(found.value) == DIGEST_DIGITS[found.algorithm]
    assert str(found) == text.strip().lower()


@given(
    st.dictionaries(st.sampled_from("abcd"), st.binary(max_size=3), min_size=1),
    st.dictionaries(st.sampled_from("abcde"), st.binary(max_size=3)),
    st.booleans(),
)
def test_only_those_bytes_fulfil_a_pin(
    files: dict[str, bytes], pinned: dict[str, bytes], of_model: bool
) -> None:
    model = None
    if of_model:
        sums = {path: digest(data).value for path, data in files.items()}
        model = Digest(algorithm="sha256", value=model_digest(sums))
    pins = DigestPins(files=tuple((p, digest(data)) for p, data in pinned.items()), model=model)
    manifest = [ManifestFile(path=p, size=len(data), blocks=()) for p, data in files.items()]
    wanted = needed([pins], manifest)
    known = {
        path: {a: digest(files[path], a).value for a in found} for path, found in wanted.items()
    }
    error = judge(pins, known, list(files))
    wrong = [path for path, data in pinned.items() if files.get(path) != data]
    assert (error is not None) == bool(wrong)
    if error is not None:
        assert error.detail["path"] in wrong
    assert set(wanted) == (set(files) if of_model else set(files) & set(pinned))


@pytest.mark.parametrize("text", ["sha256", "sha256:", "sha256:00", "blake3:" + "0" * 64, ":", ""])
def test_what_is_no_digest(text: str) -> None:
    with pytest.raises(ValueError, match="must"):
        parse_digest(text)
