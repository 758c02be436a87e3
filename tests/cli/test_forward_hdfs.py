"""KServe's HDFS secret, key by key."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cachd.cli.forward import gather
from cachd.cli.forward_values import Forwarded, Overrides
from cachd.errors import InvalidError
from tests.cli.mounted import reader

PEM = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----"
KEY = "-----BEGIN PRIVATE KEY-----\nMIIB\n-----END PRIVATE KEY-----"
NN = {"HDFS_NAMENODE": "http://nn:9870\n"}
AT_NN = {"endpoint": "http://nn:9870"}
URI = "hdfs://user/me/m"


def reading(folder: str, secret: dict[str, str]) -> Callable[[str], str]:
    return reader({f"{folder}/{name}": text for name, text in secret.items()})


def forwarded(
    secret: dict[str, str], uri: str = URI, *, given: Overrides = Overrides(), **environ: str
) -> Forwarded:
    folder = environ.get("HDFS_SECRET_DIR", "/var/secrets/kserve-hdfscreds")
    return gather({"PATH": "/bin", **environ}, uri, given, read=reading(folder, secret))


@pytest.mark.parametrize(
    ("secret", "credentials", "options"),
    [
        ({}, {}, {}),
        (NN, {}, AT_NN),
        ({**NN, "N_THREADS": "4"}, {}, AT_NN),
        (
            {**NN, "USER_PROXY": "alice\n", "HDFS_ROOTPATH": "/data"},
            {},
            {**AT_NN, "user": "alice", "root": "/data"},
        ),
        ({**NN, "TLS_CA": PEM}, {}, {**AT_NN, "ca_pem": PEM}),
        ({**NN, "TLS_CA": PEM, "TLS_SKIP_VERIFY": "True"}, {}, {**AT_NN, "verify": False}),
        ({**NN, "TLS_CERT": PEM, "TLS_KEY": KEY}, {"client_pem": f"{PEM}\n{KEY}\n"}, AT_NN),
        ({**NN, "DELEGATION_TOKEN": "T\n"}, {"token": "T"}, AT_NN),
        (
            {"HDFS_NAMENODE": "https://a:1; http://b", "HEADERS": '{"X": "y", "N": 1}'},
            {"headers": {"a:1": {"X": "y", "N": "1"}, "b": {"X": "y", "N": "1"}}},
            {"endpoint": "https://a:1; http://b"},
        ),
    ],
)
def test_the_mounted_secret(
    secret: dict[str, str], credentials: dict[str, Any], options: dict[str, Any]
) -> None:
    for uri in (URI, f"web{URI}", f"cachd+{URI}"):
        found = forwarded(secret, uri)
        assert (found.credentials, found.options, found.warnings) == (credentials, options, ())
    elsewhere = forwarded(secret, HDFS_SECRET_DIR="/elsewhere")
    assert (elsewhere.credentials, elsewhere.options) == (credentials, options)


def test_nothing_of_it_goes_elsewhere() -> None:
    secret = {**NN, "HEADERS": '{"X": "y"}', "DELEGATION_TOKEN": "T", "TLS_CA": PEM}
    assert forwarded(secret, "s3://bucket/m").credentials == {}
    assert forwarded(secret, "models:/name/1").options == {}
    found = forwarded(secret, "webhdfs://other:9870/m")
    assert (found.credentials, found.options) == ({}, {})
    assert "nothing of the HDFS secret is sent" in found.warnings[0]
    assert forwarded(secret, "webhdfs://nn:9870/m").credentials["token"] == "T"
    assert gather({"PATH": "x"}, URI, forward=False, read=reading("", secret)).options == {}


def test_the_storage_config_holds_the_same_keys() -> None:
    config = {"type": "webhdfs", **NN, "USER_PROXY": "a", "TLS_SKIP_VERIFY": True}
    more = {"STORAGE_CONFIG": json.dumps(config), "STORAGE_OVERRIDE_CONFIG": '{"USER_PROXY": "b"}'}
    found = forwarded({"HDFS_NAMENODE": "http://mounted:1"}, **more)
    assert found.options == {**AT_NN, "user": "b", "verify": False}
    other = {"STORAGE_CONFIG": '{"type": "s3", "HDFS_NAMENODE": "http://no:1"}'}
    assert forwarded(NN, **other).options == AT_NN


def test_hadoops_name_for_the_user() -> None:
    assert forwarded(NN, HADOOP_USER_NAME="me").options["user"] == "me"
    found = forwarded({**NN, "USER_PROXY": "them"}, HADOOP_USER_NAME="me")
    assert found.options["user"] == "them"


def test_the_command_line_beats_the_secret() -> None:
    secret = {**NN, "TLS_CA": PEM, "HEADERS": '{"X": "y"}'}
    found = forwarded(secret, given=Overrides(endpoint="http://x:1", verify=False))
    assert found.options == {"endpoint": "http://x:1", "verify": False}
    assert found.credentials == {"headers": {"x:1": {"X": "y"}}}


@pytest.mark.parametrize(
    ("secret", "says"),
    [
        ({**NN, "KERBEROS_PRINCIPAL": "me@X", "KERBEROS_KEYTAB": "k"}, "SPNEGO"),
        ({**NN, "TLS_CERT": PEM}, "only one of TLS_CERT and TLS_KEY"),
        ({**NN, "TLS_CA": "/etc/ca.pem"}, "ca bundle"),
        ({**NN, "HEADERS": "X: y"}, "HEADERS holds no JSON object"),
        ({"HDFS_NAMENODE": "http://nn:x", "HEADERS": '{"X": "y"}'}, "HDFS_NAMENODE"),
    ],
)
def test_what_cannot_be_meant(secret: dict[str, str], says: str) -> None:
    with pytest.raises(InvalidError, match=says):
        forwarded(secret)


def test_a_secret_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "HDFS_NAMENODE").mkdir()
    with pytest.raises(InvalidError, match="can't read"):
        gather({"HDFS_SECRET_DIR": str(tmp_path)}, URI)
