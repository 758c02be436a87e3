"""C19–C37 and C39: ``s3://``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.conformance.packing import tar, tar_zst, zipped
from tests.conformance.rows import AS_KSERVE, BOTH, SEAWEED, Row
from tests.conformance.world import dumps
from tests.servers.s3 import PUBLIC_BUCKET

if TYPE_CHECKING:
    from tests.conformance.rows import Check
    from tests.conformance.world import Outcome, World

W = b"weights" * 1000
J = b"{}"
NO_KEYS = {"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None}
PATTERNED = {"m/a.safetensors": W, "m/b.bin": W, "m/config.json": J, "m/sub/c.safetensors": W}


def s3(id: str, case: str, uri: str, *, makes: tuple[str, ...] = BOTH, **fields: Any) -> Row:
    """A row at real servers, with the environment that KServe's injector makes."""
    fields["env"] = {**AS_KSERVE, **fields.get("env", {})}
    return Row(id=id, case=case, uri=uri, makes=makes, **fields)


OBJECTS = [
    s3("C19", "a prefix", "s3://$bucket/bar",
       objects={"bar/models/weights.pt": W, "bar/0002.h5": W,
                "bar/a/very/long/path/config.json": J},
       tree={"models/weights.pt": W, "0002.h5": W, "a/very/long/path/config.json": J}),
    s3("C20", "a whole bucket", "s3://$bucket/", own_bucket=True,
       objects={"bar/weights.pt": W, "config.json": J},
       tree={"bar/weights.pt": W, "config.json": J}),
    s3("C21", "one object", "s3://$bucket/path/to/model/name.pt",
       objects={"path/to/model/name.pt": W, "path/to/model/other.pt": J}, tree={"name.pt": W}),
    s3("C21", "one object at the root", "s3://$bucket/name.pt",
       own_bucket=True, objects={"name.pt": W, "other.pt": J}, tree={"name.pt": W}),
    s3("C22", "one object without extension", "s3://$bucket/test/churn-pickle", makes=SEAWEED,
       objects={"test/churn-pickle": W, "test/churn-pickle-logs": J,
                "test/churn-pickle-report": J},
       tree={"churn-pickle": W}),
    s3("C23", "a key below the prefix", "s3://$bucket/test/a", makes=SEAWEED,
       objects={"test/a/b/model.bin": W}, tree={"b/model.bin": W}),
    s3("C24", "a directory named as its parent", "s3://$bucket/test/artifacts/model",
       makes=SEAWEED,
       objects={"test/artifacts/model/model.pkl": W, "test/artifacts/model/model/a.pkl": W,
                "test/artifacts/model/a/model.pkl": W, "test/artifacts/model/conda.yaml": J},
       tree={"model.pkl": W, "model/a.pkl": W, "a/model.pkl": W, "conda.yaml": J}),
    s3("C25", "capitals", "s3://$bucket/model", makes=SEAWEED,
       objects={"model/MLmodel": W}, tree={"MLmodel": W}),
    s3("C26", "no sibling of the prefix", "s3://$bucket/m",
       objects={"m/x": W, "m-hf/y": J, "m.txt": J}, tree={"x": W},
       deviates="takes -hf/y and .txt as well"),
    s3("C26", "a slash at the end changes nothing", "s3://$bucket/m/", makes=SEAWEED,
       objects={"m/x": W, "m-hf/y": J}, tree={"x": W}),
    s3("C27", "empty objects", "s3://$bucket/m", objects={"m/__init__.py": b"", "m/x": W},
       tree={"__init__.py": b"", "x": W}, deviates="leaves empty objects out"),
    s3("C28", "allow patterns, a JSON list", "s3://$bucket/m", objects=PATTERNED,
       env={"STORAGE_ALLOW_PATTERNS": '["*.safetensors", "*.json"]'},
       tree={"a.safetensors": W, "config.json": J, "sub/c.safetensors": W}),
    s3("C28", "allow patterns, with commas", "s3://$bucket/m", objects=PATTERNED,
       makes=SEAWEED, env={"STORAGE_ALLOW_PATTERNS": "*.safetensors, *.json"},
       tree={"a.safetensors": W, "config.json": J, "sub/c.safetensors": W}),
    s3("C29", "ignore patterns", "s3://$bucket/m", objects=PATTERNED, makes=SEAWEED,
       env={"STORAGE_IGNORE_PATTERNS": '["*.bin"]'},
       tree={"a.safetensors": W, "config.json": J, "sub/c.safetensors": W}),
    s3("C29", "both kinds of patterns", "s3://$bucket/m", objects=PATTERNED, makes=SEAWEED,
       env={"STORAGE_ALLOW_PATTERNS": '"*.safetensors"', "STORAGE_IGNORE_PATTERNS": "sub/*"},
       tree={"a.safetensors": W}),
    s3("C30", "one exact object is not filtered", "s3://$bucket/m/b.bin", objects=PATTERNED,
       makes=SEAWEED,
       env={"STORAGE_ALLOW_PATTERNS": '["*.safetensors"]'}, tree={"b.bin": W}),
    s3("C39", "one archive alone", "s3://$bucket/m/model.tar.gz",
       objects={"m/model.tar.gz": tar({"m.pth": W, "c/x.json": J}, mode="gz")},
       tree={"m.pth": W, "c/x.json": J}),
    s3("C39", "the only file of a prefix", "s3://$bucket/m",
       objects={"m/model.zip": zipped({"m.pth": W})}, tree={"m.pth": W}),
    s3("C39", "one of several files", "s3://$bucket/m", makes=SEAWEED,
       objects={"m/model.zip": zipped({"m.pth": W}), "m/x": J},
       tree={"model.zip": zipped({"m.pth": W}), "x": J}),
    s3("C39", "zstd", "s3://$bucket/m/model.tar.zst", makes=SEAWEED,
       objects={"m/model.tar.zst": tar_zst({"m.pth": W})}, tree={"m.pth": W},
       deviates="leaves it packed"),
]  # fmt: skip

REFUSALS = [
    Row(id="C31", case="keys without permission", uri="s3://refused/m",
        env={**AS_KSERVE, "AWS_ENDPOINT_URL": "$objects", "AWS_ACCESS_KEY_ID": "a",
             "AWS_SECRET_ACCESS_KEY": "b", "S3_ENDPOINT": None},
        fails=(5,), says="S3 access denied to bucket refused"),
    s3("C31", "a secret that is wrong", "s3://$bucket/m", objects={"m/x": W},
       env={"AWS_SECRET_ACCESS_KEY": "wrong"}, fails=(5,), says="S3 authentication failed"),
    s3("C32", "no credentials", "s3://$bucket/m", objects={"m/x": W}, env=NO_KEYS,
       fails=(5,), says="S3 authentication is needed"),
    s3("C33", "no such bucket", "s3://no-such-bucket-here/m", fails=(4,), says="does not exist"),
    s3("C33", "nothing below the prefix", "s3://$bucket/nothing", objects={"m/x": W},
       fails=(4,), says="No model found in s3://"),
    s3("C33", "nothing passes the patterns", "s3://$bucket/m", objects={"m/x": W}, makes=SEAWEED,
       env={"STORAGE_ALLOW_PATTERNS": "*.gguf"}, fails=(4,), says="No model found in s3://"),
]  # fmt: skip


def unsigned(bucket: str) -> Check:
    def check(world: World, _: Outcome) -> None:
        asked = world.objects.asked_of(bucket)
        assert asked
        assert all(each.authorization == "" for each in asked)

    return check


def virtual(bucket: str, *hosts: str) -> Check:
    """Every request, of the listing and of the object, named the bucket in the host."""

    def check(world: World, _: Outcome) -> None:
        asked = world.objects.asked_of(bucket)
        assert {each.method for each in asked} == {"HEAD", "GET"}
        assert all(each.is_virtual for each in asked)
        assert {each.host for each in asked} == set(hosts)
        assert all(each.authorization.startswith("AWS4-HMAC-SHA256") for each in asked)

    return check


def tunnelled(bucket: str, *hosts: str) -> Check:
    also = virtual(bucket, *hosts)

    def check(world: World, outcome: Outcome) -> None:
        also(world, outcome)
        ours = {each for each in world.objects.tunnels if bucket in each}
        assert ours == {f"{host}:443" for host in hosts}

    return check


def signed_for(bucket: str, region: str) -> Check:
    def check(world: World, _: Outcome) -> None:
        asked = world.objects.asked_of(bucket)
        assert asked
        assert all(f"/{region}/s3/aws4_request" in each.authorization for each in asked)

    return check


def quick(seconds: float) -> Check:
    def check(_: World, outcome: Outcome) -> None:
        assert outcome.seconds < seconds

    return check


def counted(bucket: str, requests: int) -> Check:
    def check(world: World, outcome: Outcome) -> None:
        assert len(world.objects.asked_of(bucket)) == requests
        assert outcome.seconds < 40

    return check


def at_objects(id: str, case: str, bucket: str, **fields: Any) -> Row:
    """At the server that notes how it is asked."""
    fields["env"] = {
        "AWS_ACCESS_KEY_ID": "id",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_ENDPOINT_URL": "$objects",
        "AWS_DEFAULT_REGION": "us-east-1",
        **fields.get("env", {}),
    }
    if "tree" in fields:
        fields["objects"] = {"m/x": W}
    return Row(id=id, case=case, uri=f"s3://{bucket}/m", bucket=bucket, **fields)


GOT: dict[str, Any] = {"tree": {"x": W}}
OPTIONS = [
    at_objects("C34", "anonymous", "open1", env={"awsAnonymousCredential": "True"},
               check=unsigned("open1"), **GOT),
    s3("C34", "anonymous at a bucket that is public", f"s3://{PUBLIC_BUCKET}/C34",
       bucket=PUBLIC_BUCKET, objects={"C34/x": W}, makes=SEAWEED,
       env={"awsAnonymousCredential": "True", "AWS_SECRET_ACCESS_KEY": "wrong"}, **GOT),
    at_objects("C34", "virtual host", "virtual1",
               env={"S3_USER_VIRTUAL_BUCKET": "true", "AWS_ENDPOINT_URL": "http://s3.example:9000"},
               check=virtual("virtual1", "virtual1.s3.example:9000"), **GOT),
    at_objects("C34", "accelerate", "accelerated",
               env={"S3_USE_ACCELERATE": "true", "AWS_ENDPOINT_URL": None},
               check=tunnelled("accelerated", "accelerated.s3-accelerate.amazonaws.com"), **GOT),
    at_objects("C34", "read timeout and attempts", "silent2",
               env={"S3_READ_TIMEOUT": "1", "S3_MAX_ATTEMPTS": "2"},
               # HEAD and listing, twice each.
               check=counted("silent2", 4), fails=(1,), says="did not answer in time"),
    at_objects("C34", "connect timeout", "deaf",
               env={"AWS_ENDPOINT_URL": "$deaf", "S3_CONNECT_TIMEOUT": "1",
                    "S3_MAX_ATTEMPTS": "1"},
               # A HEAD and a listing; without it, fifteen seconds each.
               check=quick(20), fails=(1,), says="did not answer in time"),
    at_objects("C34", "an endpoint without a scheme", "plain1",
               env={"AWS_ENDPOINT_URL": None, "S3_ENDPOINT": "$objects_host",
                    "S3_USE_HTTPS": "0"}, **GOT),
    at_objects("C35", "the global endpoint and a region", "legacy",
               env={"AWS_ENDPOINT_URL": "https://s3.amazonaws.com",
                    "AWS_DEFAULT_REGION": "eu-west-1"},
               check=tunnelled("legacy", "legacy.s3.eu-west-1.amazonaws.com"), **GOT),
]  # fmt: skip


def spec(id: str, case: str, **fields: Any) -> Row:
    """Everything by STORAGE_CONFIG, nothing by AWS_*."""
    env = dict.fromkeys(AS_KSERVE) | fields.pop("env")
    fields = {"objects": {"m/x": W}, "makes": SEAWEED} | fields
    return s3(id, case, fields.pop("uri", "s3://$bucket/m"), env=env, **fields)


FULL: dict[str, Any] = {
    "type": "s3",
    "endpoint_url": "$tls_endpoint",
    "access_key_id": "$key",
    "secret_access_key": "$secret",
    "region": "us-east-1",
    "ca_bundle": "$custom_pem",
}
STORAGE_CONFIG = [
    spec("C36", "endpoint, keys, region and authority",
         env={"STORAGE_CONFIG": dumps(**FULL)}, **GOT),
    spec("C36", "it beats AWS_*",
         env={"STORAGE_CONFIG": dumps(**FULL), "AWS_ENDPOINT_URL": "http://127.0.0.1:1",
              "AWS_ACCESS_KEY_ID": "other", "AWS_SECRET_ACCESS_KEY": "other"}, **GOT),
    spec("C36", "the override beats it",
         env={"STORAGE_CONFIG": dumps(**FULL | {"endpoint_url": "http://127.0.0.1:1",
                                                "secret_access_key": "wrong"}),
              "STORAGE_OVERRIDE_CONFIG": dumps(endpoint_url="$endpoint",
                                               secret_access_key="$secret")}, **GOT),
    spec("C36", "verify_ssl off",
         env={"STORAGE_CONFIG": dumps(**FULL | {"verify_ssl": "0", "ca_bundle": "/no/such"})},
         **GOT),
    spec("C36", "anonymous", uri=f"s3://{PUBLIC_BUCKET}/C36", bucket=PUBLIC_BUCKET,
         objects={"C36/x": W},
         env={"STORAGE_CONFIG": dumps(**FULL | {"secret_access_key": "wrong",
                                                "anonymous": "True"})}, **GOT),
    at_objects("C36", "the region is signed for", "regional",
               env={"STORAGE_CONFIG": dumps(type="s3", region="eu-central-1")},
               check=signed_for("regional", "eu-central-1"), **GOT),
    spec("C36", "a storage of another type says nothing about S3",
         env={"STORAGE_CONFIG": dumps(**FULL | {"type": "hdfs"}),
              "AWS_ENDPOINT_URL": "$endpoint"},
         fails=(5,), says="authentication is needed"),
]  # fmt: skip


def bundles(case: str, env: dict[str, str], **fields: Any) -> Row:
    env = {"AWS_ENDPOINT_URL": "$tls_endpoint", "S3_MAX_ATTEMPTS": "1", **env}
    return s3("C37", case, "s3://$bucket/m", objects={"m/x": W}, env=env, **fields)


def config_map(name: str) -> dict[str, str]:
    return {
        "CA_BUNDLE_CONFIGMAP_NAME": "global-ca-bundle",
        "CA_BUNDLE_VOLUME_MOUNT_POINT": f"$certificates/{name}",
    }


BUNDLES = [
    bundles("AWS_CA_BUNDLE", {"AWS_CA_BUNDLE": "$custom_pem"}, **GOT),
    bundles("it beats the ConfigMap", {"AWS_CA_BUNDLE": "$custom_pem", **config_map("stranger")},
            makes=SEAWEED, **GOT),
    bundles("even where it doesn't help",
            {"AWS_CA_BUNDLE": "$stranger_pem", **config_map("custom")},
            makes=SEAWEED, fails=(1,), says="TLS"),
    bundles("an empty one falls back", {"AWS_CA_BUNDLE": "", **config_map("custom")},
            makes=SEAWEED, **GOT),
    bundles("verification off ignores them", {"S3_VERIFY_SSL": "0", "AWS_CA_BUNDLE": "/no/such"},
            makes=SEAWEED, **GOT),
    bundles("a missing one ends it", {"AWS_CA_BUNDLE": "/no/such"}, makes=SEAWEED,
            fails=(2,), says="Failed to find ca bundle file(/no/such)"),
    bundles("a missing ConfigMap ends it", config_map("nowhere"), makes=SEAWEED,
            fails=(2,), says="Failed to find ca bundle file("),
    bundles("no bundle, no trust", {}, fails=(1,), says="TLS"),
]  # fmt: skip

ROWS = OBJECTS + REFUSALS + OPTIONS + STORAGE_CONFIG + BUNDLES
