"""Checks of answers, and what they say of a file."""

from __future__ import annotations

import base64
from typing import Any

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachd.errors import CachdError, OriginError
from cachd.fetch.answer import Wanted, check_answer, request_headers
from cachd.fetch.claims import claim_to_check, read_facts
from cachd.fetch.head import Head, write_head
from cachd.model import Digest, Validator

ETAG = '"abc"'


def head(status: int, length: int | None, **headers: str) -> Head:
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    return Head(status, fields, length, True, h11.Connection(h11.CLIENT))


def wanted(**more: Any) -> Wanted:
    defaults: dict[str, Any] = {
        "path": "f",
        "url": "http://x/f",
        "size": 1000,
        "validator": Validator(etag=ETAG),
        "offset": 100,
        "length": 200,
        "is_whole": False,
    }
    return Wanted(**{**defaults, **more})


@given(start=st.integers(0, 400), end=st.integers(0, 400), total=st.integers(0, 2000))
def test_only_the_very_range_is_taken(start: int, end: int, total: int) -> None:
    answer = head(206, 200, etag=ETAG, content_range=f"bytes {start}-{end}/{total}")
    try:
        count = check_answer(wanted(), answer)
    except OriginError:
        assert (start, end, total) != (100, 299, 1000)
    else:
        assert count == 200
        assert (start, end, total) == (100, 299, 1000)


@pytest.mark.parametrize(
    ("status", "length", "headers", "code"),
    [
        (206, 200, {"content_range": "bytes 100-299/*"}, "origin_failed"),
        (206, 200, {"content_range": "items 1-2/3"}, "origin_failed"),
        (206, 200, {}, "origin_failed"),
        (206, 199, {"content_range": "bytes 100-299/1000"}, "origin_failed"),
        (200, 1000, {}, "range_ignored"),
    ],
)
def test_answers_that_do_not_fit(
    status: int, length: int, headers: dict[str, str], code: str
) -> None:
    with pytest.raises(CachdError) as caught:
        check_answer(wanted(), head(status, length, etag=ETAG, **headers))
    assert caught.value.code == code


def test_a_version_stands_for_an_etag() -> None:
    file = wanted(
        validator=Validator(etag=ETAG, version_id="v1"), offset=0, length=1000, is_whole=True
    )
    assert check_answer(file, head(200, 1000, x_amz_version_id="v1")) == 1000
    with pytest.raises(CachdError):
        check_answer(file, head(200, 1000, x_amz_version_id="v2", etag=ETAG))


def test_an_encoding_kept_by_s3_is_a_note() -> None:
    file = wanted(offset=0, length=1000, is_whole=True, is_s3=True)
    assert check_answer(file, head(200, 1000, etag=ETAG, content_encoding="gzip")) == 1000


def test_checksums_of_parts_are_no_digests() -> None:
    crc = base64.b64encode(bytes(8)).decode()
    whole = head(200, 5, x_amz_checksum_crc64nvme=crc)
    assert read_facts(whole, is_whole=True).digests[0].value == "0" * 16
    assert read_facts(whole, is_whole=False).digests == ()
    composite = head(200, 5, x_amz_checksum_crc32c="AAAAAA==-3")
    assert read_facts(composite, is_whole=True).digests == ()
    typed = head(200, 5, x_amz_checksum_crc32c="AAAAAA==", x_amz_checksum_type="COMPOSITE")
    assert read_facts(typed, is_whole=True).digests == ()


def test_which_digest_is_checked() -> None:
    md5 = '"' + "a" * 32 + '"'
    plain = read_facts(head(200, 5, etag=md5), is_whole=True)
    assert claim_to_check(None, plain, takes_etags=True) == Digest(algorithm="md5", value="a" * 32)
    assert claim_to_check(None, plain, takes_etags=False) is None
    for name, value in (
        ("x-amz-server-side-encryption", "aws:kms"),
        ("x-amz-server-side-encryption-customer-algorithm", "AES256"),
        ("x-amz-storage-class", "EXPRESS_ONEZONE"),
    ):
        opaque = read_facts(head(200, 5, etag=md5, **{name: value}), is_whole=True)
        assert claim_to_check(None, opaque, takes_etags=True) is None
    for etag in (md5[:-1] + '-0"', md5[:-1] + '-10001"', md5[:-1] + '-x"', '"' + "a" * 31 + '"'):
        odd = read_facts(head(200, 5, etag=etag), is_whole=True)
        assert claim_to_check(None, odd, takes_etags=True) is None
    strong = Digest(algorithm="sha256", value="b" * 64)
    crc = base64.b64encode(bytes(8)).decode()
    both = read_facts(head(200, 5, etag=md5, x_amz_checksum_crc64nvme=crc), is_whole=True)
    assert claim_to_check(strong, both, takes_etags=True) == strong
    named = Digest(algorithm="git-sha1", value="c" * 40)
    assert claim_to_check(named, both, takes_etags=False) == named
    found = claim_to_check(None, both, takes_etags=True)
    assert found is not None
    assert found.algorithm == "crc64nvme"


@given(text=st.text(max_size=20))
def test_nothing_breaks_out_of_its_line(text: str) -> None:
    try:
        data = write_head("GET", "/" + text, [("host", "h"), ("if-match", text)])
    except OriginError:
        return
    assert data.count(b"\r\n") == 4
    assert data.count(b"\n") == 4
    assert b" " not in data.split(b"\r\n")[0].split(b" ", 1)[1].rsplit(b" ", 1)[0]


def test_preconditions() -> None:
    assert ("if-match", ETAG) in request_headers(wanted())
    weak = request_headers(wanted(validator=Validator(etag='W/"x"', last_modified="D")))
    assert [name for name, _ in weak] == ["accept-encoding", "range", "if-unmodified-since"]
