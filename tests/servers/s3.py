"""S3 servers of two makes: SeaweedFS, and JuiceFS's gateway (MinIO's code).

Both check signatures.
"""

from __future__ import annotations

import json
import subprocess
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import botocore.session
from botocore import UNSIGNED
from botocore.config import Config

from tests.servers.nginx import Nginx
from tests.servers.ports import LOOPBACK, free_ports
from tests.servers.process import ServerProcess, find_program

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tests.servers.certificates import Certificates

ACCESS_KEY = "testkey"
SECRET_KEY = "testsecret"
PUBLIC_BUCKET = "public"
LISTABLE_BUCKET = "listable"
"""Anybody lists it; reading takes a signature."""

# It holds the parsed service model, which takes long to load.
_SESSION = botocore.session.Session()


@dataclass
class S3Server:
    """A running server; ``endpoint`` and ``tls_endpoint`` are URLs without a slash at the end."""

    name: str
    endpoint: str
    tls_endpoint: str
    ca_pem: str = field(repr=False)
    access_key: str = ACCESS_KEY
    secret_key: str = SECRET_KEY
    region: str = "us-east-1"
    has_versions: bool = False
    has_anonymous: bool = False
    parts: list[Any] = field(default_factory=list, repr=False)

    def client(self, *, signed: bool = True) -> Any:
        """A blocking botocore client, to put objects."""
        return _SESSION.create_client(
            "s3",
            region_name=self.region,
            endpoint_url=self.endpoint,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            config=Config(
                s3={"addressing_style": "path"},
                signature_version="s3v4" if signed else UNSIGNED,
                retries={"max_attempts": 3, "mode": "standard"},
                request_checksum_calculation="when_required",
            ),
        )

    def make_bucket(self, objects: Mapping[str, bytes], name: str = "") -> str:
        """A bucket (a new one, if no name is given) holding ``objects``; its name."""
        bucket = name or f"b-{uuid.uuid4().hex[:12]}"
        client = self.client()
        try:
            client.create_bucket(Bucket=bucket)
        except client.exceptions.ClientError as error:
            if "BucketAlready" not in error.response["Error"]["Code"]:
                raise
        above = {key[:at] for key in objects for at, c in enumerate(key) if c == "/"}
        # Servers that are file systems take an object below another one, and not the other way.
        for key in above & set(objects):
            client.put_object(Bucket=bucket, Key=key, Body=objects[key])
        with ThreadPoolExecutor(8) as pool:
            puts = [
                pool.submit(client.put_object, Bucket=bucket, Key=key, Body=body)
                for key, body in objects.items()
                if key not in above
            ]
            for put in puts:
                put.result()
        client.close()
        return bucket

    def stop(self) -> None:
        for part in reversed(self.parts):
            part.stop()


def start_seaweed(
    folder: Path, certificates: Certificates, host: str = LOOPBACK
) -> S3Server | None:
    """SeaweedFS, http and https; the bucket ``public`` is read without a signature."""
    program = find_program("weed")
    if program is None:
        return None
    data = folder / "data"
    data.mkdir(parents=True)
    identities = folder / "identities.json"
    identities.write_text(
        json.dumps(
            {
                "identities": [
                    {
                        "name": "tests",
                        "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
                        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
                    },
                    {
                        "name": "anonymous",
                        "actions": [
                            f"Read:{PUBLIC_BUCKET}",
                            f"List:{PUBLIC_BUCKET}",
                            f"List:{LISTABLE_BUCKET}",
                        ],
                    },
                ]
            }
        )
    )
    names = [
        "s3.port", "s3.port.https", "s3.port.grpc", "s3.port.iceberg", "s3.port.lance",
        "master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "volume.port.public",
        "filer.port", "filer.port.grpc", "filer.port.public", "admin.port", "admin.port.grpc",
        "webdav.port",
    ]  # fmt: skip
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    process = ServerProcess(
        [
            program,
            "mini",
            f"-dir={data}",
            f"-ip={host}",
            f"-ip.bind={host}",
            f"-s3.config={identities}",
            f"-s3.cert.file={certificates.chain}",
            f"-s3.key.file={certificates.key}",
            "-webdav=false",
            "-admin.ui=false",
            # A bucket takes some volumes, and a disk with little room gets few of the usual size.
            "-master.volumeSizeLimitMB=64",
            *[f"-{name}={port}" for name, port in ports.items()],
        ],
        folder,
    )
    server = S3Server(
        name="seaweedfs",
        endpoint=f"http://{host}:{ports['s3.port']}",
        tls_endpoint=f"https://{host}:{ports['s3.port.https']}",
        ca_pem=certificates.ca_pem,
        has_versions=True,
        has_anonymous=True,
        parts=[process],
    )
    try:
        process.wait_for_http(ports["s3.port"], host=host)
    except BaseException:
        server.stop()
        raise
    return server


def start_juicefs(folder: Path, certificates: Certificates, nginx: str | None) -> S3Server | None:
    """JuiceFS's gateway; https by an nginx before it, where ``nginx`` (its path) is given."""
    program = find_program("juicefs")
    if program is None:
        return None
    folder.mkdir(parents=True)
    meta = f"badger://{folder}/meta"
    subprocess.run(
        [program, "format", "--no-update", "--storage", "file", "--bucket", f"{folder}/data/",
         meta, "tests"],
        cwd=folder, check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    (port,) = free_ports(1)
    process = ServerProcess(
        [program, "gateway", "--no-usage-report", "--multi-buckets", "--keep-etag", "--no-banner",
         "--log", f"{folder}/gateway.log", "--backup-meta", "0", "--no-bgjob",
         "--cache-dir", f"{folder}/cache", "--cache-size", "64",
         "--attr-cache", "0", "--entry-cache", "0", "--dir-entry-cache", "0",
         meta, f"{LOOPBACK}:{port}"],
        folder, MINIO_ROOT_USER=ACCESS_KEY, MINIO_ROOT_PASSWORD=SECRET_KEY,
    )  # fmt: skip
    parts: list[Any] = [process]
    server = S3Server(
        name="juicefs",
        endpoint=f"http://{LOOPBACK}:{port}",
        tls_endpoint="",
        ca_pem=certificates.ca_pem,
        parts=parts,
    )
    try:
        process.wait_for_http(port, "/minio/health/live")
        if nginx is not None:
            front = Nginx.start_tls_front(nginx, folder / "front", certificates, port)
            parts.append(front)
            server.tls_endpoint = front.url
    except BaseException:
        server.stop()
        raise
    return server
