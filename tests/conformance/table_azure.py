"""C45–C49: Azure's blobs, at Azurite, and its files, at a server of ours."""

from __future__ import annotations

from typing import Any

from tests.conformance.packing import tar
from tests.conformance.rows import Row
from tests.servers.azurite import ACCOUNT, PUBLIC_CONTAINER

W = b"weights" * 1000
J = b"{}"
TRITON = {"simple_string/1/model.graphdef": W, "simple_string/config.pbtxt": J,
          "simple_string_other/x": J}  # fmt: skip
BLOB = f"https://{ACCOUNT}.blob.core.windows.net"
FILE = f"https://{ACCOUNT}.file.core.windows.net"
NO_KEY = {"AZURE_STORAGE_ACCESS_KEY": None}


def azure(id: str, case: str, uri: str, *, make: str = "azurite", **fields: Any) -> Row:
    """With the account's key, as KServe's injector sets it from a secret."""
    environ = {"AZURE_SERVICE_URL": "$endpoint", "AZURE_STORAGE_ACCESS_KEY": "$secret"}
    fields["env"] = {**environ, **fields.get("env", {})}
    return Row(id=id, case=case, uri=uri, makes=(make,), **fields)


ROWS = [
    azure("C45", "a prefix", f"{BLOB}/$bucket/simple_string/", objects=TRITON,
          tree={"1/model.graphdef": W, "config.pbtxt": J},
          deviates="takes simple_string_other/ as well"),
    azure("C45", "empty blobs", f"{BLOB}/$bucket/m", objects={"m/__init__.py": b"", "m/x": W},
          tree={"__init__.py": b"", "x": W}, deviates="leaves empty blobs out"),
    azure("C45", "by the name that Hadoop has for it", "abfss://$bucket@"
          f"{ACCOUNT}.dfs.core.windows.net/m", own_bucket=True,
          objects={"m/x": W}, tree={"x": W}, deviates="doesn't know it"),
    azure("C45", "a public container", f"{BLOB}/{PUBLIC_CONTAINER}/m", bucket=PUBLIC_CONTAINER,
          objects={"m/x": W}, env=NO_KEY, tree={"x": W}),
    azure("C45", "no credentials", f"{BLOB}/$bucket/m", objects={"m/x": W}, env=NO_KEY,
          fails=(5,), says="authentication is needed"),
    azure("C45", "a signature in the URI", f"{BLOB}/$bucket/m?$sas", objects={"m/x": W},
          env=NO_KEY, tree={"x": W}),
    azure("C45", "a signature beside it", f"{BLOB}/$bucket/m", objects={"m/x": W},
          env={**NO_KEY, "AZURE_STORAGE_SAS_TOKEN": "$sas"}, tree={"x": W}),
    azure("C46", "a zone of names", f"https://{ACCOUNT}.z20.blob.storage.azure.net/$bucket/m",
          objects={"m/x": W}, tree={"x": W}),
    azure("C46", "a zone of one digit", f"https://{ACCOUNT}.z2.blob.storage.azure.net/$bucket/m",
          objects={"m/x": W}, tree={"x": W}),
    azure("C46", "files in a zone", f"https://{ACCOUNT}.z2.file.storage.azure.net/$bucket/m",
          make="azurefiles", objects={"m/x": W}, tree={"x": W}),
    azure("C47", "one blob", f"{BLOB}/$bucket/m/model.pt",
          objects={"m/model.pt": W, "m/model.pt.sig": J}, tree={"model.pt": W}),
    azure("C47", "a whole container", f"{BLOB}/$bucket", own_bucket=True,
          objects={"m/model.pt": W, "x": J}, tree={"m/model.pt": W, "x": J}),
    azure("C47", "a deep tree", f"{BLOB}/$bucket/m", objects={"m/a/b/c/d/e/f/g": W},
          tree={"a/b/c/d/e/f/g": W}),
    azure("C47", "one archive alone", f"{BLOB}/$bucket/m",
          objects={"m/model.tar.gz": tar({"m.pth": W}, mode="gz")}, tree={"m.pth": W}),
    azure("C48", "nothing below the prefix", f"{BLOB}/$bucket/none", objects={"m/x": W},
          fails=(4,), says="No model found in https://"),
    azure("C49", "a share", f"{FILE}/$bucket/simple_string/", make="azurefiles", own_bucket=True,
          objects=TRITON, tree={"1/model.graphdef": W, "config.pbtxt": J},
          deviates="keeps simple_string/ in front"),
    azure("C49", "a deep share", f"{FILE}/$bucket/m", make="azurefiles",
          objects={"m/a/b/c/d/e/f/g": W}, tree={"a/b/c/d/e/f/g": W},
          deviates="leaves out what lies deeper than five levels"),
]  # fmt: skip
