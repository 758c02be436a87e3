"""What crosses to the resolver process comes out as it went in."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from cachd.credentials import NAMED, Credentials, SourceOptions
from cachd.model import Auth, Connect, Digest, Plan, PlannedFile, SignedUrl, UnpackRule, Validator
from cachd.sources import wire
from cachd.sources.base import Location, SourceRequest

_words = st.text(max_size=12)
_maybe = st.none() | _words
_pairs = st.lists(st.tuples(_words, _words), max_size=3).map(tuple)
_seconds = st.none() | st.floats(0, 1e10, allow_nan=False)
_validators = st.builds(Validator, etag=_maybe, last_modified=_maybe, version_id=_maybe)
_digests = st.builds(
    Digest, algorithm=st.sampled_from(["sha256", "md5", "crc64nvme"]), value=_words
)
_files = st.builds(
    PlannedFile,
    path=_words,
    url=_words,
    size=st.none() | st.integers(0, 2**62),
    validator=_validators,
    digest=st.none() | _digests,
    ranges=st.booleans(),
    range_query=_words,
    post=_words,
    headers=_pairs,
)
_auths = st.builds(
    Auth,
    kind=st.sampled_from(["none", "sigv4", "headers"]),
    access_key=_words,
    secret_key=_words,
    session_token=_words,
    region=_words,
    service=_words,
    headers=_pairs,
    host=_words,
    query=_words,
    signed=st.lists(
        st.builds(SignedUrl, planned=_words, url=_words, headers=_pairs), max_size=2
    ).map(tuple),
    expires=_seconds,
)
_plans = st.builds(
    Plan,
    revision=_words,
    files=st.lists(_files, max_size=4).map(tuple),
    auth=_auths,
    connect=st.builds(
        Connect,
        verify=st.booleans(),
        ca_pem=_maybe,
        client_pem=_words,
        connect_timeout=_seconds,
        read_timeout=_seconds,
    ),
    unpack=st.sampled_from(["", "tar", "zip", "rules"]),
    rules=st.lists(
        st.builds(
            UnpackRule,
            file=_words,
            kind=st.sampled_from(["file", "tar", "zip", "git"]),
            into=_words,
            strip=_words,
            is_overlay=st.booleans(),
            detail=st.dictionaries(_words, _words, max_size=2),
        ),
        max_size=2,
    ).map(tuple),
    needs_recheck=st.booleans(),
    is_immutable=st.booleans(),
    is_validated=st.booleans(),
    is_credentialed=st.booleans(),
    metadata=st.dictionaries(_words, _words, max_size=3),
)
_options = st.builds(
    SourceOptions,
    endpoint=_maybe,
    region=_maybe,
    addressing=st.sampled_from([None, "auto", "path", "virtual"]),
    accelerate=st.none() | st.booleans(),
    verify=st.none() | st.booleans(),
    ca_pem=_maybe,
    connect_timeout=_seconds,
    read_timeout=_seconds,
    max_attempts=st.none() | st.integers(1, 10),
    registry=_maybe,
    root=_maybe,
    user=_maybe,
    authority=_maybe,
    plain_http=st.none() | st.booleans(),
)
_requests = st.builds(
    SourceRequest,
    location=st.builds(
        Location,
        scheme=_words,
        uri=_words,
        origin=_words,
        is_default_origin=st.booleans(),
        options=_options,
    ),
    allow=st.lists(_words, max_size=3).map(tuple),
    ignore=st.lists(_words, max_size=3).map(tuple),
    identity=st.sampled_from(["caller", "daemon", "anonymous"]),
    credentials=st.builds(
        Credentials,
        access_key=_words,
        secret_key=_words,
        session_token=_words,
        anonymous=st.booleans(),
        token=_words,
        **dict.fromkeys(NAMED, _words),
        headers=st.lists(st.tuples(_words, _pairs), max_size=2).map(tuple),
    ),
)


def across(data: Any) -> Any:
    return json.loads(json.dumps(data))


@given(_plans)
def test_plans(plan: Plan) -> None:
    assert wire.plan_from_json(across(wire.plan_to_json(plan))) == plan


@given(_auths)
def test_credentials(auth: Auth) -> None:
    assert wire.auth_from_json(across(wire.auth_to_json(auth))) == auth


@given(_requests)
def test_requests(request: SourceRequest) -> None:
    assert wire.request_from_json(across(wire.request_to_json(request))) == request
