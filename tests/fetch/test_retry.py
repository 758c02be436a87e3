"""Decisions about failed parts, and the errors that answers mean."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachd import errors
from cachd.fetch.refusal import parse_refusal, parse_retry_after
from cachd.fetch.retry import RETRY_AFTER_MAX, RetryPolicy, decide
from tests.origins.fault import s3_error

POLICY = RetryPolicy(attempts=5, backoff_base=0.5, backoff_max=30)
NOW = 1_700_000_000.0


@given(attempts=st.integers(1, 4), jitter=st.floats(0, 1))
def test_backoff_grows_and_is_bounded(attempts: int, jitter: float) -> None:
    error = errors.OriginUnreachable("x")
    decision = decide(error, attempts=attempts, policy=POLICY, random=lambda: jitter)
    assert decision.action == "again"
    assert 0 <= decision.delay <= min(30, 0.5 * 2 ** (attempts - 1))


def test_the_last_attempt_fails() -> None:
    error = errors.OriginUnreachable("x")
    assert decide(error, attempts=5, policy=POLICY, random=lambda: 0).action == "fail"


@given(seconds=st.floats(0, 1e9), jitter=st.floats(0, 1))
def test_retry_after_is_a_lower_bound_within_reason(seconds: float, jitter: float) -> None:
    error = errors.OriginBusy("x", retry_after=seconds)
    decision = decide(error, attempts=1, policy=POLICY, random=lambda: jitter)
    assert min(seconds, RETRY_AFTER_MAX) <= decision.delay <= RETRY_AFTER_MAX + 0.5


@pytest.mark.parametrize(
    ("error", "action"),
    [
        (errors.RangeIgnored("x"), "restream"),
        (errors.CredentialsExpired("x"), "refresh"),
        (errors.CredentialsInvalid("x"), "refresh"),
        (errors.AccessError("x"), "refresh"),
        (errors.EgressForbidden("x"), "fail"),
        (errors.OriginChanged("x"), "fail"),
        (errors.OriginMoved("x"), "fail"),
        (errors.OriginTls("x"), "fail"),
        (errors.DigestMismatch("x"), "fail"),
        (errors.DiskFull("x"), "fail"),
        (errors.OriginError("x", final=True), "fail"),
        (errors.OriginStalled("x"), "again"),
        (errors.WorkerDied("x"), "again"),
        (errors.OriginError("x", clock_offset=5.0), "adjust_clock"),
    ],
)
def test_what_each_error_leads_to(error: errors.CachdError, action: str) -> None:
    assert decide(error, attempts=1, policy=POLICY, random=lambda: 0.5).action == action


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (400, "ExpiredToken", errors.CredentialsExpired),
        (403, "AccessDenied", errors.AccessError),
        (403, "SignatureDoesNotMatch", errors.CredentialsInvalid),
        (403, "InvalidAccessKeyId", errors.CredentialsInvalid),
        (401, "", errors.CredentialsInvalid),
        (403, "", errors.AccessError),
        (503, "SlowDown", errors.OriginBusy),
        (503, "", errors.OriginBusy),
        (429, "", errors.OriginBusy),
        (500, "InternalError", errors.OriginError),
        (502, "", errors.OriginError),
        (301, "PermanentRedirect", errors.OriginMoved),
        (400, "AuthorizationHeaderMalformed", errors.OriginMoved),
        (412, "PreconditionFailed", errors.OriginChanged),
        (404, "NoSuchKey", errors.OriginChanged),
        (404, "", errors.OriginChanged),
        (416, "InvalidRange", errors.OriginChanged),
        (403, "RequestTimeTooSkewed", errors.OriginError),
    ],
)
def test_the_code_decides(status: int, code: str, expected: type[errors.CachdError]) -> None:
    body = s3_error(code) if code else b""
    assert type(parse_refusal(status, {}, body, "f", now=NOW)) is expected


def test_a_word_in_the_message_decides_nothing() -> None:
    body = s3_error("InternalError", "AccessDenied ExpiredToken NoSuchKey")
    assert type(parse_refusal(500, {}, body, "f", now=NOW)) is errors.OriginError


def test_a_clock_that_is_off_tells_by_how_much() -> None:
    headers = {"date": "Tue, 14 Nov 2023 22:23:20 GMT"}
    error = parse_refusal(403, headers, s3_error("RequestTimeTooSkewed"), "f", now=NOW)
    assert error.detail["clock_offset"] == 600


def test_retry_after_as_a_date_or_nonsense() -> None:
    assert parse_retry_after("7", NOW) == 7
    assert parse_retry_after("Tue, 14 Nov 2023 22:13:30 GMT", NOW) == 10
    assert parse_retry_after("soon", NOW) is None
    assert parse_retry_after("²", NOW) is None
    assert parse_retry_after("9" * 400, NOW) == 86400
    assert parse_retry_after("Fri, 31 Dec 9999 23:59:59 GMT", NOW) == 86400
    assert parse_retry_after(None, NOW) is None


def test_a_limit_of_requests_says_how_long() -> None:
    limit = {"ratelimit": '"resolvers";r=0;t=41'}
    assert parse_refusal(429, limit, b"", "f", now=NOW).retry_after == 41
    assert parse_refusal(429, {**limit, "retry-after": "3"}, b"", "f", now=NOW).retry_after == 3


@given(status=st.integers(300, 599), body=st.binary(max_size=300), header=st.text(max_size=40))
def test_any_refusal_is_an_error_of_ours(status: int, body: bytes, header: str) -> None:
    error = parse_refusal(status, {"retry-after": header, "date": header}, body, "f", now=NOW)
    assert errors.CachdError.from_wire(error.to_wire()).code == error.code
