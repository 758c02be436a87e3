"""C40–C44: ``gs://``, at a server of ours that Google's own client vouches for."""

from __future__ import annotations

from typing import Any

from tests.conformance.packing import zipped
from tests.conformance.rows import Row

W = b"weights" * 1000
J = b"{}"
PRIVATE = "private-models"
PATTERNED = {"m/a.safetensors": W, "m/b.bin": W, "m/config.json": J, "m/sub/c.safetensors": W}
KEY = {
    # What KServe's injector sets from a secret with gcloud-application-credentials.json.
    "GOOGLE_APPLICATION_CREDENTIALS": "$folder/google-key.json",
    "CACHD_ENDPOINT": "$endpoint",
    "STORAGE_EMULATOR_HOST": None,
}


def gs(id: str, case: str, uri: str, **fields: Any) -> Row:
    fields["env"] = {"STORAGE_EMULATOR_HOST": "$endpoint", **fields.get("env", {})}
    return Row(id=id, case=case, uri=uri, makes=("gcs",), **fields)


ROWS = [
    gs("C40", "an empty directory", "gs://$bucket/bar", objects={"bar/": b""},
       fails=(4,), says="No model found in gs://"),
    gs("C40", "no such bucket", "gs://no-such-bucket/bar", fails=(4,), says="does not exist"),
    gs("C41", "a directory", "gs://$bucket/foo/bar",
       objects={"foo/bar/": b"", "foo/bar/mock.object": W, "foo/bar/test/mock.object": J,
                "foo/bar-other/x": J, "foo/bar/__init__.py": b""},
       tree={"mock.object": W, "test/mock.object": J, "__init__.py": b""}),
    gs("C41", "a whole bucket", "gs://$bucket", own_bucket=True,
       objects={"mock.object": W, "a/b": J}, tree={"mock.object": W, "a/b": J}),
    gs("C41", "a service account's key", f"gs://{PRIVATE}/m", env=KEY, bucket=PRIVATE,
       objects={"m/x": W}, tree={"x": W}),
    gs("C41", "a key that isn't there", f"gs://{PRIVATE}/m", bucket=PRIVATE, objects={"m/x": W},
       env={**KEY, "GOOGLE_APPLICATION_CREDENTIALS": "$folder/none.json"},
       fails=(2,), says="GOOGLE_APPLICATION_CREDENTIALS names",
       deviates="goes on without credentials"),
    gs("C41", "no credentials", f"gs://{PRIVATE}/m", bucket=PRIVATE, objects={"m/x": W},
       fails=(5,), says="authentication is needed"),
    gs("C42", "one object", "gs://$bucket/foo/bar/mock.object",
       objects={"foo/bar/mock.object": W, "foo/bar/mock.object.old": J},
       tree={"mock.object": W}),
    gs("C43", "one archive alone", "gs://$bucket/foo/bar",
       objects={"foo/bar/": b"", "foo/bar/mock.zip": zipped({"m.pth": W})}, tree={"m.pth": W}),
    gs("C44", "allow patterns", "gs://$bucket/m", objects=PATTERNED,
       env={"STORAGE_ALLOW_PATTERNS": '["*.safetensors", "*.json"]'},
       tree={"a.safetensors": W, "config.json": J, "sub/c.safetensors": W}),
    gs("C44", "ignore patterns", "gs://$bucket/m", objects=PATTERNED,
       env={"STORAGE_IGNORE_PATTERNS": '["*.bin", "sub/*"]'},
       tree={"a.safetensors": W, "config.json": J}),
    gs("C44", "nothing passes", "gs://$bucket/m", objects=PATTERNED,
       env={"STORAGE_ALLOW_PATTERNS": "*.gguf"}, fails=(4,), says="No model found in gs://"),
]  # fmt: skip
