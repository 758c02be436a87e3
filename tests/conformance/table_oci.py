"""C54: ``oci://``, as KServe's initializer gets it (python/storage/test/test_oci_storage.py)."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

from tests.conformance.packing import tar, tar_zst
from tests.conformance.rows import Row
from tests.servers.registry import PASSWORD, USER, Registry
from tests.unpack.layers import layer

W = b"weights" * 1000
J = b"{}"
PLAIN = {"KSERVE_OCI_INSECURE_REGISTRY": "true"}
LOGIN = {
    "KSERVE_OCI_DOCKER_CONFIG": "$folder/oci-config.json",
    "CA_BUNDLE_CONFIGMAP_NAME": "global-ca-bundle",
    "CA_BUNDLE_VOLUME_MOUNT_POINT": "$certificates/custom",
}
PLATFORMS = {"amd64": ("amd64", "x86_64"), "arm64": ("arm64", "aarch64")}


def oci(case: str, name: str, **fields: Any) -> Row:
    fields["env"] = fields.get("env", PLAIN)
    return Row(id="C54", case=case, uri=fields.pop("uri", f"oci://$registry/{name}"), **fields)


def push(folder: Path, registry: Registry, private: Registry) -> dict[str, str]:
    """What the rows ask for, and the names that they call it by."""
    registry.push_image(
        "kserve/layers",
        "v1",
        tar({"models/model.bin": W, "etc/passwd": J}),
        gzip.compress(tar({"models/sub/config.json": J})),
    )
    registry.push_image("kserve/zstd", "v1", tar_zst({"models/model.bin": W}))
    images = []
    for architecture in PLATFORMS:
        body = layer({"models/architecture": architecture.encode()})
        digest = registry.push_image("kserve/index", architecture, body)
        images.append((digest, {"os": "linux", "architecture": architecture}))
    registry.push_index("kserve/index", "v1", images)  # type: ignore[arg-type]
    registry.push_image("kserve/bare", "v1", tar({"opt/x": W, "srv/y": W}))
    registry.push_image("kserve/hostile", "v1", tar({"models/../../x": W}))
    registry.push_image(
        "kserve/link", "v1", tar({"models/a": W}, links={"models/passwd": "/etc/passwd"})
    )
    registry.push_files("kserve/artifact", "v1", {"model.bin": W, "sub/config.json": J})
    private.push_image("kserve/private", "v1", tar({"models/model.bin": W}))
    login = {"auths": {private.host: {"username": USER, "password": PASSWORD}}}
    (folder / "oci-config.json").write_text(json.dumps(login))
    wrong = {"auths": {private.host: {"username": USER, "password": "wrong-sesame"}}}
    (folder / "oci-wrong.json").write_text(json.dumps(wrong))
    digest = registry.push_image("kserve/digest", "v1", tar({"models/model.bin": W}))
    return {
        "registry": registry.host,
        "private_registry": private.host,
        "digest": digest,
    }


def own() -> bytes:
    import platform

    machine = platform.machine()
    return next(name for name, all_ in PLATFORMS.items() if machine in all_).encode()


ROWS = [
    oci("layers, plain and gzip", "kserve/layers:v1",
        tree={"model.bin": W, "sub/config.json": J}),
    oci("a layer in zstd", "kserve/zstd:v1", tree={"model.bin": W},
        deviates="refuses zstd"),
    oci("an index of two platforms", "kserve/index:v1", tree={"architecture": own()}),
    oci("no directory models", "kserve/bare:v1", fails=(4,), says="'opt', 'srv'"),
    oci("a digest", "kserve/digest@$digest", tree={"model.bin": W}),
    oci("native and fetch are the same", "", uri="oci+native://$registry/kserve/digest:v1",
        tree={"model.bin": W}, deviates="never gets them: its injector makes oci:// of them"),
    oci("fetch, too", "", uri="oci+fetch://$registry/kserve/digest:v1", tree={"model.bin": W}),
    oci("files that oras pushed", "kserve/artifact:v1",
        tree={"model.bin": W, "sub/config.json": J}, deviates="reads images only"),
    oci("a login from the pull secret", "",
        uri="oci://$private_registry/kserve/private:v1", env=LOGIN, tree={"model.bin": W}),
    oci("a login that is wrong", "", uri="oci://$private_registry/kserve/private:v1",
        env={**LOGIN, "KSERVE_OCI_DOCKER_CONFIG": "$folder/oci-wrong.json"},
        fails=(5,), says="authentication failed"),
    oci("no login", "", uri="oci://$private_registry/kserve/private:v1",
        env={name: text for name, text in LOGIN.items() if name.startswith("CA_")},
        fails=(5,), says="KSERVE_OCI_DOCKER_CONFIG"),
    oci("nothing there", "kserve/layers:none", fails=(4,), says="No model found"),
    oci("a name that leaves the tree", "kserve/hostile:v1", fails=(1,), says="'..'"),
    oci("a link that leaves the tree", "kserve/link:v1", fails=(1,), says="passwd"),
    oci("a name of Docker Hub's without its host", "", uri="oci://rhuss/sklearn:1.0",
        fails=(2,), says="oci://docker.io/rhuss/sklearn",
        deviates="leaves it to its library which registry is meant"),
]  # fmt: skip
