"""nginx speaking enough S3 to be listed and read: ListObjectsV2 from a prepared file, objects by
sendfile, ETags and ranges as nginx has them. http and https on loopback."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from pathlib import Path
from xml.sax.saxutils import escape

BUCKET = "bench"

_CONFIG = """
worker_processes 2; daemon off; pid {home}/nginx.pid; error_log {home}/error.log;
events {{ worker_connections 1024; }}
http {{
  access_log off; sendfile on; tcp_nopush on; sendfile_max_chunk 2m;
  types {{}} default_type application/octet-stream;
  client_body_temp_path {home}/b; proxy_temp_path {home}/p; fastcgi_temp_path {home}/f;
  uwsgi_temp_path {home}/u; scgi_temp_path {home}/s;
  server {{
    listen 127.0.0.1:{http}; listen 127.0.0.1:{https} ssl;
    ssl_certificate {home}/cert.pem; ssl_certificate_key {home}/key.pem;
    keepalive_requests 100000; root {root};
    error_page 404 /_list/nosuchkey.xml;
    location /_list/ {{ internal; default_type application/xml; }}
    location ~ ^/([^/]+)/?$ {{
      if ($args ~ "list-type=2") {{ rewrite ^/([^/]+)/?$ /_list/$1.xml last; }}
      return 200;
    }}
    location / {{ add_header x-amz-request-id nginx; }}
  }}
}}
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Origin:
    """``files``: name → bytes; sparse, or random where ``random`` says so."""

    def __init__(self, home: Path, files: dict[str, int], *, random: bool = False) -> None:
        self.home = home
        self.root = home / "root"
        self.http, self.https = free_port(), free_port()
        self.bytes = sum(files.values())
        bucket = self.root / BUCKET
        bucket.mkdir(parents=True)
        for name, size in files.items():
            path = bucket / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                if random:
                    left = size
                    while left:
                        left -= file.write(os.urandom(min(left, 1 << 24)))
                else:
                    file.truncate(size)
        self._write_listing(files)
        self.certificate = home / "cert.pem"
        subprocess.run(
            [
                "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
                "-keyout", home / "key.pem", "-out", self.certificate, "-subj", "/CN=localhost",
                "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost",
            ],
            check=True, capture_output=True,
        )  # fmt: skip
        config = home / "nginx.conf"
        config.write_text(
            _CONFIG.format(home=home, root=self.root, http=self.http, https=self.https)
        )
        nginx = shutil.which("nginx") or "/usr/sbin/nginx"
        self.process = subprocess.Popen([nginx, "-c", str(config)], stderr=subprocess.DEVNULL)
        self._wait()

    def _write_listing(self, files: dict[str, int]) -> None:
        listing = self.root / "_list"
        listing.mkdir()
        rows = "".join(
            f"<Contents><Key>{escape(name)}</Key><Size>{size}</Size>"
            f"<LastModified>2026-01-01T00:00:00.000Z</LastModified>"
            f"<ETag>{self._etag(name)}</ETag></Contents>"
            for name, size in sorted(files.items())
        )
        (listing / f"{BUCKET}.xml").write_text(
            '<?xml version="1.0"?><ListBucketResult '
            'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><IsTruncated>false</IsTruncated>'
            f"<Name>{BUCKET}</Name><KeyCount>{len(files)}</KeyCount>"
            f"<MaxKeys>100000</MaxKeys>{rows}</ListBucketResult>"
        )
        (listing / "nosuchkey.xml").write_text(
            '<?xml version="1.0"?><Error><Code>NoSuchKey</Code></Error>'
        )

    def _etag(self, name: str) -> str:
        found = (self.root / BUCKET / name).stat()
        return f"&quot;{int(found.st_mtime):x}-{found.st_size:x}&quot;"

    def _wait(self) -> None:
        deadline = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.http), 1).close()
                return
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(10)

    def endpoint(self, scheme: str) -> str:
        return f"{scheme}://127.0.0.1:{self.http if scheme == 'http' else self.https}"
