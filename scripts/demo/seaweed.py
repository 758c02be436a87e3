"""A real S3 server on loopback: SeaweedFS from its wheel, with credentials that it checks."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import socket
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

from aiobotocore.config import AioConfig
from aiobotocore.session import get_session
from process import Failure, Running

if TYPE_CHECKING:
    from sample import Sample

GRPC_OFFSET = 10000
"""SeaweedFS listens for gRPC at the port of each service plus this."""


class Seaweed:
    """``weed mini`` with its data below ``directory``; ended by ``stop``."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._process: Running | None = None
        self.access_key = "demo"
        self.secret_key = secrets.token_hex(16)
        self._ports = free_ports(6)
        self.endpoint = f"http://127.0.0.1:{self._ports[0]}"
        self.metrics = f"http://127.0.0.1:{self._ports[5]}/metrics"

    def start(self) -> None:
        """Start and wait until S3 answers. Raises Failure with the server's log."""
        directory = self._directory
        directory.mkdir()
        config = directory / "s3.json"
        config.touch(0o600)
        config.write_text(json.dumps(self._identities()))
        s3, master, volume, filer, admin, metrics = self._ports
        options = {
            "dir": directory,
            "ip": "127.0.0.1",
            "ip.bind": "127.0.0.1",
            "s3.port": s3,
            "s3.config": config,
            "s3.port.iceberg": 0,
            "s3.port.lance": 0,
            "s3.localSocket": directory / "s3.sock",
            "master.port": master,
            "master.telemetry": "false",
            "volume.port": volume,
            "filer.port": filer,
            "filer.localSocket": directory / "filer.sock",
            "admin.port": admin,
            "admin.ui": "false",
            "metricsPort": metrics,
            "webdav": "false",
        }
        self._process = Running.start(
            [str(Path(sys.executable).parent / "weed"), "-logtostderr", "mini"]
            + [f"-{name}={value}" for name, value in options.items()],
            directory / "weed.log",
            cwd=directory,
            environ={**os.environ, "TMPDIR": str(directory)},
        )
        self._process.wait_until(self._answers, "SeaweedFS", 30)

    def stop(self) -> None:
        if self._process:
            self._process.stop(kill_after=1)  # what it holds is thrown away
        for port in self._ports:  # a few of its sockets have a fixed place
            for left in Path("/tmp").glob(f"seaweedfs-*-{port + GRPC_OFFSET}.sock"):
                left.unlink(missing_ok=True)

    def upload(self, bucket: str, samples: list[Sample]) -> None:
        """Put every file of every sample at ``s3://bucket/<name>/…``."""
        asyncio.run(self._upload(bucket, samples))

    def bytes_sent(self, bucket: str) -> int | None:
        """Bytes that this server's S3 says it has sent out of ``bucket``; None if it doesn't."""
        total, seen = 0.0, False
        with urllib.request.urlopen(self.metrics, timeout=5) as answer:
            for line in answer.read().decode().splitlines():
                if line.startswith("SeaweedFS_s3_bucket_traffic_sent_bytes_total") and (
                    f'bucket="{bucket}"' in line
                ):
                    total, seen = total + float(line.rsplit(" ", 1)[1]), True
        return int(total) if seen else None

    async def _upload(self, bucket: str, samples: list[Sample]) -> None:
        client = get_session().create_client(
            "s3",
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            config=AioConfig(s3={"addressing_style": "path"}, proxies={}),
        )
        slots = asyncio.Semaphore(4)
        async with client as s3, asyncio.TaskGroup() as group:
            await s3.create_bucket(Bucket=bucket)

            async def put(sample: Sample, name: str) -> None:
                async with slots:
                    with (sample.tree / name).open("rb") as body:
                        await s3.put_object(Bucket=bucket, Key=f"{sample.name}/{name}", Body=body)

            for sample in samples:
                for name in sample.digests:
                    group.create_task(put(sample, name))

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(self.endpoint, timeout=2):
                return True
        except urllib.error.HTTPError as error:
            return error.code == 403  # it wants a signature: S3 is up
        except OSError:
            return False

    def _identities(self) -> dict[str, object]:
        keys = {"accessKey": self.access_key, "secretKey": self.secret_key}
        actions = ["Admin", "Read", "Write", "List", "Tagging"]
        return {"identities": [{"name": "demo", "credentials": [keys], "actions": actions}]}


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody has now, whose gRPC neighbours are free as well."""
    found: list[int] = []
    deadline = time.monotonic() + 10
    with contextlib.ExitStack() as held:
        while len(found) < count:
            if time.monotonic() > deadline:
                raise Failure("no free ports on 127.0.0.1")
            candidate = 12000 + secrets.randbelow(18000)
            try:
                for port in (candidate, candidate + GRPC_OFFSET):
                    one = held.enter_context(socket.socket())
                    one.bind(("127.0.0.1", port))
            except OSError:
                continue
            found.append(candidate)
    return found
