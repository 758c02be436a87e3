"""nginx: static files with ranges and ETags, and a TLS front for servers that have none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.servers.ports import LOOPBACK, free_ports
from tests.servers.process import ServerProcess

if TYPE_CHECKING:
    from pathlib import Path

    from tests.servers.certificates import Certificates

_FRAME = """
daemon off; worker_processes 2; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{ worker_connections 1024; }}
http {{
  access_log {folder}/access.log; sendfile on; tcp_nopush on; server_tokens off;
  types {{ {types} }} default_type application/octet-stream;
  client_body_temp_path {folder}/t1; proxy_temp_path {folder}/t2; fastcgi_temp_path {folder}/t3;
  uwsgi_temp_path {folder}/t4; scgi_temp_path {folder}/t5; client_max_body_size 0;
  server {{ listen {host}:{plain}; {body} }}
  {tls}
}}
"""
_TLS = """server {{ listen {host}:{port} ssl; ssl_certificate {chain}; ssl_certificate_key {key};
 {body} }}"""
_FRONT = """location / {{ proxy_pass http://{host}:{port}; proxy_set_header Host $http_host;
 proxy_http_version 1.1; proxy_buffering off; proxy_request_buffering off; }}"""

TYPES = "text/html html; application/zip zip; application/json json;"


@dataclass
class Nginx:
    """A running nginx. ``url`` is https if it has a certificate; ``root`` holds its files."""

    process: ServerProcess
    plain_url: str
    tls_url: str
    root: Path
    access_log: Path

    @property
    def url(self) -> str:
        return self.tls_url or self.plain_url

    def stop(self) -> None:
        self.process.stop()

    @staticmethod
    def start(
        program: str,
        folder: Path,
        certificates: Certificates | None = None,
        *,
        body: str = "",
        types: str = TYPES,
    ) -> Nginx:
        """Serve ``folder/root``; ``body`` adds directives to the server blocks."""
        root = folder / "root"
        root.mkdir(parents=True)
        folder.chmod(0o755)
        plain, secure = free_ports(2)
        body = f"root {root}; {body}"
        tls = ""
        if certificates is not None:
            tls = _TLS.format(
                host=LOOPBACK,
                port=secure,
                chain=certificates.chain,
                key=certificates.key,
                body=body,
            )
        configuration = folder / "nginx.conf"
        configuration.write_text(
            _FRAME.format(
                folder=folder, types=types, host=LOOPBACK, plain=plain, body=body, tls=tls
            ).replace("daemon off;", "daemon off; user root;", 1)
        )
        process = ServerProcess(
            [program, "-e", f"{folder}/error.log", "-c", str(configuration), "-p", str(folder)],
            folder,
        )
        server = Nginx(
            process=process,
            plain_url=f"http://{LOOPBACK}:{plain}",
            tls_url=f"https://{LOOPBACK}:{secure}" if tls else "",
            root=root,
            access_log=folder / "access.log",
        )
        try:
            process.wait_for_http(plain)
        except BaseException:
            process.stop()
            raise
        return server

    @staticmethod
    def start_tls_front(program: str, folder: Path, certificates: Certificates, port: int) -> Nginx:
        """https before a plain server on loopback ``port``."""
        return Nginx.start(
            program, folder, certificates, body=_FRONT.format(host=LOOPBACK, port=port)
        )
