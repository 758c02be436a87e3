"""C57 and C58: ``model-registry://``, as Kubeflow's KServe downloader takes it (cmd/csi in
kubeflow/model-registry), at a fake of the registry that its own Python client vouches for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.conformance.rows import AS_KSERVE, SEAWEED, Row

if TYPE_CHECKING:
    from tests.servers.modelregistry import ModelRegistry
    from tests.servers.s3 import S3Server

ONE = {"w.bin": b"one" * 100}
TWO = {"w.bin": b"two" * 100}


def register(registry: ModelRegistry, server: S3Server) -> dict[str, str]:
    """What the rows ask for; the names that they use."""
    objects = {f"{place}/{name}": body for place, tree in (("1", ONE), ("2", TWO))
               for name, body in tree.items()}  # fmt: skip
    bucket = server.make_bucket(objects)
    elsewhere = f"?endpoint={server.endpoint}&defaultRegion=us-east-1"
    registry.add("iris", "v1", f"s3://{bucket}/1")
    registry.add("iris", "v2", f"s3://{bucket}/2")
    registry.add("placed", "v1", f"s3://{bucket}/1{elsewhere}")
    registry.add("documented", "v1", f"s3://{bucket}/1")
    registry.add("documented", "v1", f"s3://{bucket}/2", artifactType="doc-artifact")
    registry.add("old", "v1", f"s3://{bucket}/1")
    registry.version("old", "v1")["state"] = "ARCHIVED"
    registry.add("shelved", "v1", f"s3://{bucket}/1")
    registry.add("shelved", "v2", f"s3://{bucket}/2")
    registry.version("shelved", "v2")["state"] = "ARCHIVED"
    registry.add("claimed", "v1", "pvc://claim/model")
    return {"models": registry.host, "models_port": str(registry.port)}


def named(id: str, case: str, name: str, **fields: Any) -> Row:
    env = {**AS_KSERVE, "MODEL_REGISTRY_BASE_URL": "$models", **fields.pop("env", {})}
    return Row(id=id, case=case, uri=f"model-registry://{name}", env=env, makes=SEAWEED, **fields)


ALONE = {"MODEL_REGISTRY_BASE_URL": None}

ROWS = [
    named("C57", "a model", "iris", tree=TWO),
    named("C57", "a model and a version", "iris/v1", tree=ONE),
    named("C57", "a host and a model", "$models/iris", env=ALONE, tree=TWO),
    named("C57", "a host, a model and a version", "$models/iris/v1", env=ALONE, tree=ONE),
    named("C57", "a namespace", "iris?namespace=profile-alpha",
          fails=(1, 4), says="model-registry-service.profile-alpha.svc.cluster.local"),
    named("C57", "a namespace and a version", "iris/v1?namespace=profile-alpha",
          env={"MODEL_REGISTRY_SERVICE_NAME": "mr"},
          fails=(1, 4), says="http://mr.profile-alpha.svc.cluster.local:$models_port"),
    named("C57", "a namespace beside a host", "$models/iris/v1?namespace=profile-alpha",
          tree=ONE, deviates="asks the one of the namespace"),
    named("C57", "no such model", "other", fails=(4,), says="no model 'other'"),
    named("C57", "no such version", "iris/v9", fails=(4,), says="no version 'v9'"),
    named("C58", "the artifact's own endpoint", "placed",
          env={"AWS_ENDPOINT_URL": "http://127.0.0.1:1", "S3_ENDPOINT": None}, tree=ONE,
          deviates="takes the query for a part of the key"),
    named("C58", "a document is newer than the model", "documented", tree=ONE,
          deviates="finds no model artifact"),
    named("C58", "only archived versions", "old", fails=(4,), says="are archived",
          deviates="takes archived versions"),
    named("C58", "an archived version by name", "old/v1", fails=(4,), says="is archived",
          deviates="takes archived versions"),
    named("C58", "the newest is archived", "shelved", tree=ONE,
          deviates="takes archived versions"),
    named("C58", "a place that can't be had", "claimed", fails=(1,),
          says="no source knows pvc://"),
]  # fmt: skip
