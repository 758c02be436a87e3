"""Signatures, against botocore's."""

from __future__ import annotations

import datetime
from unittest import mock

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given
from hypothesis import strategies as st

from cachd.fetch.sigv4 import Signer
from cachd.model import Auth

NAMES = st.text("abcABC019-_.~", min_size=1, max_size=12)
SEGMENTS = st.lists(
    st.one_of(NAMES, st.sampled_from(["%20", "%2F", "a%2Bb", "%C3%A9", "..", ".", "(x)", "'", ""])),
    max_size=5,
)
QUERIES = st.lists(st.tuples(NAMES, st.one_of(NAMES, st.just(""), st.just("a%3Db"))), max_size=4)


@given(
    segments=SEGMENTS,
    query=QUERIES,
    token=st.sampled_from(["", "session/token=="]),
    method=st.sampled_from(["GET", "HEAD"]),
    extra=st.dictionaries(
        st.sampled_from(["range", "if-match", "x-amz-checksum-mode", "x-amz-request-payer"]),
        st.sampled_from(['"etag"', "bytes=0-5", "a  b   c", " padded "]),
        max_size=3,
    ),
    at=st.integers(1_000_000_000, 2_000_000_000),
    host=st.sampled_from(["s3.amazonaws.com", "127.0.0.1:9000", "b.example:8443"]),
)
def test_signatures_are_botocores(
    segments: list[str],
    query: list[tuple[str, str]],
    token: str,
    method: str,
    extra: dict[str, str],
    at: int,
    host: str,
) -> None:
    url = f"https://{host}/" + "/".join(segments)
    if query:
        url += "?" + "&".join(f"{n}={v}" for n, v in query)
    headers = {"host": host, **extra}
    request = AWSRequest(method=method, url=url, headers=headers)
    now = datetime.datetime.fromtimestamp(at, datetime.UTC).replace(tzinfo=None)
    with mock.patch("botocore.auth.get_current_datetime", return_value=now):
        S3SigV4Auth(Credentials("AKID", "secret", token or None), "s3", "eu-west-1").add_auth(
            request
        )
    auth = Auth(
        kind="sigv4",
        access_key="AKID",
        secret_key="secret",
        session_token=token,
        region="eu-west-1",
    )
    signer = Signer(auth)
    signer.clock_offset = 100.0
    added = dict(signer.sign(method, url, list(headers.items()), now=at - 100))
    assert added["x-amz-content-sha256"] == request.headers["X-Amz-Content-SHA256"]
    theirs = request.headers["Authorization"]
    assert added["authorization"] == theirs


def test_the_day_changes() -> None:
    signer = Signer(Auth(kind="sigv4", access_key="A", secret_key="s", region="r"))
    headers = [("host", "h")]
    first = signer.sign("GET", "https://h/", headers, now=0)
    later = signer.sign("GET", "https://h/", headers, now=86400)
    again = signer.sign("GET", "https://h/", headers, now=0)
    assert first == again != later


def test_headers_that_proxies_change_are_not_signed() -> None:
    signer = Signer(Auth(kind="sigv4", access_key="A", secret_key="s", region="r"))
    headers = [("host", "h"), ("user-agent", "x"), ("accept-encoding", "identity")]
    added = dict(signer.sign("GET", "https://h/", headers, now=0))
    assert "SignedHeaders=host;x-amz-content-sha256;x-amz-date," in added["authorization"]
