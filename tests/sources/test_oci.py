"""``oci://`` against docker-registry, and images that skopeo pushed there."""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from cachd.credentials import Credentials
from cachd.errors import (
    AccessError,
    CredentialsInvalid,
    CredentialsMissing,
    EgressForbidden,
    NotFound,
    OriginTls,
    OriginUnreachable,
)
from cachd.sources.oci import default_platform
from tests.servers.certificates import Certificates
from tests.servers.registry import PASSWORD, TITLE, USER, Registry, digest_of
from tests.servers.require import program
from tests.sources.asking import NOBODY, paths, resolve, settings
from tests.unpack.layers import layer

KEYS = Credentials(username=USER, password=PASSWORD)
FILES = {"config.json": b"{}", "weights/a.bin": b"a" * 1000, "empty": b""}


async def plain(registry: Registry, name: str, **more: Any) -> Any:
    return await resolve(f"oci://{registry.host}/{name}", NOBODY, plain_http=True, **more)


async def test_an_artifact(registry: Registry) -> None:
    digest = registry.push_files("sources/artifact", "v1", FILES)
    plan = await plain(registry, "sources/artifact:v1")
    assert paths(plan) == {name: len(body) for name, body in FILES.items()}
    assert plan.revision == digest.removeprefix("sha256:")
    assert plan.unpack == ""
    assert plan.metadata["commit"] == digest
    assert (plan.is_immutable, plan.is_credentialed, plan.is_read_proven) == (False, False, True)
    assert plan.auth.kind == "none"
    by_digest = await plain(registry, f"sources/artifact@{digest}")
    assert (by_digest.revision, by_digest.is_immutable) == (plan.revision, True)
    assert {str(file.digest) for file in plan.files} == {digest_of(b) for b in FILES.values()}
    registry.push_files("sources/artifact", "latest", {"other": b"o"})
    assert paths(await plain(registry, "sources/artifact")) == {"other": 1}


async def test_a_single_archive_is_unpacked(registry: Registry) -> None:
    registry.push_files("sources/archive", "v1", {"model.tar.gz": b"x", "b": b""})
    assert (await plain(registry, "sources/archive:v1")).unpack == ""
    registry.push_files("sources/archive", "v1", {"model.tar.gz": b"x"})
    assert (await plain(registry, "sources/archive:v1")).unpack == "tar"


async def test_an_index(registry: Registry) -> None:
    ours, other = ({"os": "linux", "architecture": a} for a in ("amd64", "s390x"))
    one = registry.push_image("sources/index", "one", layer({"models/x": b"1"}))
    two = registry.push_image("sources/index", "two", layer({"models/x": b"2"}))
    registry.push_index("sources/index", "v1", [(one, ours), (two, other)])
    for platform, wanted in (("linux/amd64", one), ("linux/s390x", two)):
        plan = await plain(registry, "sources/index:v1", given=settings(oci={"platform": platform}))
        assert plan.revision == wanted.removeprefix("sha256:")
        assert plan.unpack == "rules"
    with pytest.raises(NotFound, match=r"no image for linux/riscv64: it has linux/amd64"):
        await plain(registry, "sources/index:v1", given=settings(oci={"platform": "linux/riscv64"}))
    registry.push_index("sources/index", "bare", [(two, None)])
    plan = await plain(registry, "sources/index:bare")
    assert plan.revision == two.removeprefix("sha256:")
    assert default_platform().startswith("linux/")


async def test_what_skopeo_pushed(registry: Registry, tmp_path: Path) -> None:
    """An image in an OCI layout on disk, and the same in Docker's manifest format."""
    skopeo = program("skopeo", "skopeo")
    place = tmp_path / "image"
    body = layer({"models/x": b"of an image"})
    _write_layout(place, body)
    for tag, kind in (("oci", "oci"), ("docker", "v2s2")):
        done = subprocess.run(
            [
                skopeo, "copy", "--insecure-policy", "--dest-tls-verify=false", "--format", kind,
                f"oci:{place}:v1", f"docker://{registry.host}/sources/skopeo:{tag}",
            ],
            capture_output=True,
            text=True,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        plan = await plain(registry, f"sources/skopeo:{tag}")
        assert plan.unpack == "rules"
        assert [rule.strip for rule in plan.rules] == ["models"]


def _write_layout(place: Path, body: bytes) -> None:
    (place / "blobs/sha256").mkdir(parents=True)

    def put(data: bytes, kind: str) -> dict[str, Any]:
        (place / "blobs/sha256" / hashlib.sha256(data).hexdigest()).write_bytes(data)
        return {"mediaType": kind, "digest": digest_of(data), "size": len(data)}

    base = "application/vnd.oci.image."
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": [digest_of(body)]},
        "history": [{"created_by": "the tests"}],
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{base}manifest.v1+json",
        "config": put(json.dumps(config).encode(), f"{base}config.v1+json"),
        "layers": [put(body, f"{base}layer.v1.tar")],
    }
    described = put(json.dumps(manifest).encode(), f"{base}manifest.v1+json")
    described["annotations"] = {"org.opencontainers.image.ref.name": "v1"}
    (place / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (place / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [described]}))


async def test_annotations_are_metadata(registry: Registry) -> None:
    notes = {TITLE: "Tiny", "org.opencontainers.image.version": "1.2", "x": "y"}
    layers = [(b"x", "application/octet-stream", {TITLE: "x"})]
    digest = registry.push("sources/notes", "v1", layers, annotations=notes)
    plan = await plain(registry, "sources/notes:v1")
    assert plan.metadata == {"commit": digest, "name": "Tiny", "version": "1.2"}


@pytest.mark.parametrize("name", ["sources/none:v1", "sources/artifact:none"])
async def test_nothing_is_there(registry: Registry, name: str) -> None:
    registry.push_files("sources/artifact", "v1", FILES)
    with pytest.raises(NotFound, match=r"No model found in .*404 \(MANIFEST_UNKNOWN\)"):
        await plain(registry, name)


async def test_what_is_no_registry(registry: Registry, nginx: Any) -> None:
    host = nginx.plain_url.partition("://")[2]
    with pytest.raises(NotFound):
        await resolve(f"oci://{host}/a:v1", NOBODY, plain_http=True)
    with pytest.raises(OriginTls):
        await resolve(f"oci://{registry.host}/a:v1", NOBODY)
    with pytest.raises(OriginUnreachable):
        await resolve("oci://127.0.0.1:1/a:v1", NOBODY)
    with pytest.raises(EgressForbidden):
        await resolve("oci://169.254.169.254/a:v1", NOBODY)


# --- a name and a password ------------------------------------------------------------------------


@pytest.fixture
def private(private_registry: Registry, certificates: Certificates) -> dict[str, Any]:
    private_registry.push_files("sources/private", "v1", FILES)
    return {
        "uri": f"oci://{private_registry.host}/sources/private:v1",
        "ca_pem": certificates.ca_pem,
    }


async def test_a_caller_with_a_login(private: dict[str, Any]) -> None:
    plan = await resolve(credentials=KEYS, **private)
    assert plan.is_credentialed
    assert (plan.auth.kind, plan.auth.host) == ("headers", private["uri"].split("/")[2])
    assert [name for name, _ in plan.auth.headers] == ["Authorization"]
    assert PASSWORD not in repr(plan)


async def test_a_basic_header_for_the_host_is_a_login(private: dict[str, Any]) -> None:
    from tests.sources.test_oci_names import pair

    header = (("Authorization", f"Basic {pair(f'{USER}:{PASSWORD}')}"),)
    plan = await resolve(credentials=Credentials(headers=(("127.0.0.1", header),)), **private)
    assert plan.is_credentialed
    assert plan.auth.headers == header


async def test_logins_that_are_refused(private: dict[str, Any]) -> None:
    with pytest.raises(CredentialsMissing, match=r"answered 401 \(UNAUTHORIZED\); no login") as no:
        await resolve(credentials=NOBODY, **private)
    assert "KSERVE_OCI_DOCKER_CONFIG" in no.value.hint
    wrong = Credentials(username=USER, password="wrong-sesame")
    with pytest.raises(
        CredentialsInvalid, match=r"a name and a password \(the request's"
    ) as caught:
        await resolve(credentials=wrong, **private)
    assert "sesame" not in f"{caught.value} {caught.value.hint}"
    assert isinstance(caught.value, AccessError)


@pytest.mark.parametrize("by", ["DOCKER_CONFIG", "REGISTRY_AUTH_FILE", "HOME", "setting"])
async def test_the_daemons_own_login(
    private: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    place = tmp_path / (".docker/config.json" if by == "HOME" else "config.json")
    place.parent.mkdir(exist_ok=True)
    host = private["uri"].split("/")[2]
    place.write_text(json.dumps({"auths": {host: {"username": USER, "password": PASSWORD}}}))
    given = settings(oci={"docker_config": str(place)} if by == "setting" else {})
    if by != "setting":
        monkeypatch.setenv(by, str(place if by == "REGISTRY_AUTH_FILE" else tmp_path))
    plan = await resolve(credentials=Credentials(), identity="daemon", given=given, **private)
    assert plan.is_credentialed
    assert paths(plan).keys() == FILES.keys()
    with pytest.raises(CredentialsMissing):
        await resolve(credentials=Credentials(), identity="anonymous", given=given, **private)


async def test_a_credential_helper_is_named_and_not_run(
    private: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.json").write_text('{"credsStore": "secretservice"}')
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    with pytest.raises(CredentialsMissing) as caught:
        await resolve(credentials=Credentials(), identity="daemon", **private)
    assert "secretservice" in caught.value.hint


async def test_an_index_of_nothing(registry: Registry) -> None:
    manifest = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json"}
    registry.push_manifest("sources/odd", "v1", {**manifest, "manifests": []})
    with pytest.raises(NotFound, match="0 manifests"):
        await plain(registry, "sources/odd:v1")
