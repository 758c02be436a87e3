"""Whose pass is used, and who may have what without the source being asked."""

from __future__ import annotations

import dataclasses

import pytest

from cachd.cache.access import ANONYMOUS, DAEMON, Proofs, is_open, principal_of
from cachd.cache.types import Caller
from cachd.credentials import Credentials
from cachd.model import make_ref
from cachd.settings import AccessSettings
from cachd.store.types import SnapshotInfo

REF = make_ref(uri="s3://b/m", origin="s3+https://h", is_default_origin=True)
KEYS = Credentials(access_key="AK", secret_key="very-secret", session_token="tok")
DAEMON_UID = 10001


def info(*, credentialed: bool) -> SnapshotInfo:
    return SnapshotInfo(
        ref=REF,
        files=0,
        bytes=0,
        created="",
        source="s3",
        is_credentialed=credentialed,
        is_validated=True,
        is_immutable=False,
        identity="anonymous",
    )


@pytest.mark.parametrize(
    ("credentials", "caller", "settings", "default_origin", "identity"),
    [
        (KEYS, Caller(role="pod", uid=1), {}, True, "caller"),
        (KEYS, Caller(role="admin", uid=0), {}, True, "caller"),
        (Credentials(anonymous=True), Caller(role="admin", uid=0), {}, True, "anonymous"),
        (Credentials(), Caller(role="pod", uid=1), {}, True, "anonymous"),
        (Credentials(), Caller(role="pod", uid=0), {}, True, "anonymous"),
        (Credentials(), Caller(role="pod", uid=None), {}, True, "anonymous"),
        (Credentials(), Caller(role="pod", uid=DAEMON_UID), {}, True, "daemon"),
        (Credentials(), Caller(role="admin", uid=None), {}, True, "daemon"),
        (Credentials(), Caller(role="pod", uid=1), {"share_identity": True}, True, "daemon"),
        (Credentials(), Caller(role="pod", uid=7), {"identity_uids": (7,)}, True, "daemon"),
        # An endpoint of the caller's choice: only the owner's requests are signed for it.
        (Credentials(), Caller(role="pod", uid=1), {"share_identity": True}, False, "anonymous"),
        (Credentials(), Caller(role="pod", uid=7), {"identity_uids": (7,)}, False, "anonymous"),
        (Credentials(), Caller(role="pod", uid=DAEMON_UID), {}, False, "daemon"),
    ],
)
def test_whose_pass_is_used(credentials, caller, settings, default_origin, identity):
    principal = principal_of(
        credentials,
        caller,
        AccessSettings(**settings),
        daemon_uid=DAEMON_UID,
        is_default_origin=default_origin,
    )
    assert principal.identity == identity


def test_principals_differ_by_every_credential_and_show_none():
    def principal(credentials):
        return principal_of(
            credentials,
            Caller(role="pod", uid=1),
            AccessSettings(),
            daemon_uid=DAEMON_UID,
            is_default_origin=True,
        )

    variants = [
        KEYS,
        dataclasses.replace(KEYS, secret_key="other"),
        dataclasses.replace(KEYS, session_token="other"),
        dataclasses.replace(KEYS, headers=(("h", (("Authorization", "x"),)),)),
    ]
    principals = [principal(v) for v in variants]
    assert len({p.fingerprint for p in principals}) == len(variants)
    assert principal(KEYS).fingerprint == principals[0].fingerprint
    for text in map(repr, principals):
        assert "very-secret" not in text
        assert "AK" not in text


def test_a_proof_is_for_one_principal_ref_and_revision_and_ends():
    now = [0.0]
    proofs = Proofs(300.0, clock=lambda: now[0])
    proofs.record(DAEMON, REF, "r1")
    other = make_ref(uri="s3://b/m", origin="s3+https://elsewhere", is_default_origin=False)
    assert proofs.holds(DAEMON, REF, "r1")
    assert not proofs.holds(ANONYMOUS, REF, "r1")
    assert not proofs.holds(DAEMON, REF, "r2")
    assert not proofs.holds(DAEMON, other, "r1")
    now[0] = 300.0
    assert not proofs.holds(DAEMON, REF, "r1")
    assert proofs.ever_held(DAEMON, REF, "r1")
    proofs.revoke_fingerprint("daemon", REF)
    assert not proofs.ever_held(DAEMON, REF, "r1")


def test_proofs_are_bounded_and_the_oldest_go():
    proofs = Proofs(300.0, limit=10)
    refs = [make_ref(uri=f"s3://b/{n}", origin="o", is_default_origin=True) for n in range(11)]
    for ref in refs:
        proofs.record(DAEMON, ref, "r")
    assert not proofs.holds(DAEMON, refs[0], "r")
    assert all(proofs.holds(DAEMON, ref, "r") for ref in refs[1:])


@pytest.mark.parametrize(
    ("credentialed", "identity", "open_hits", "is_given"),
    [
        (False, "anonymous", False, True),
        (False, "daemon", False, True),
        (False, "caller", False, False),
        (True, "anonymous", False, False),
        (True, "daemon", False, False),
        (True, "caller", False, False),
        (True, "anonymous", True, True),
    ],
)
def test_what_is_given_without_asking_the_source(credentialed, identity, open_hits, is_given):
    principal = dataclasses.replace(ANONYMOUS, identity=identity)
    settings = AccessSettings(open_hits=open_hits)
    assert is_open(info(credentialed=credentialed), principal, settings) is is_given
