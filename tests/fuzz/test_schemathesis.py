"""schemathesis drives the API over TLS by /openapi.json: no 5xx that isn't described, every answer
as the document says, and what breaks the document is refused."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.harness import running
from tests.servers.certificates import make_certificates
from tests.servers.ports import LOOPBACK, free_ports
from tests.servers.require import missing

TOKEN = "a-token-for-tests-that-is-long-enough"
LEFT_OUT = (
    "/v1/events",  # a stream without an end
    "/v1/import",  # its body is a tar archive, which schemathesis can't make
)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_api_is_as_its_document_says(tmp_path: Path) -> None:
    program = os.environ.get("SCHEMATHESIS", "")
    if not program:
        missing("schemathesis (make test-slow)")
    made = make_certificates(tmp_path / "tls")
    token = tmp_path / "token"
    token.write_text(TOKEN)
    token.chmod(0o600)
    (port,) = free_ports(1)
    with running(
        tmp_path / "daemon",
        OFFLINE="true",
        LISTEN_API_ADDRESS=f"{LOOPBACK}:{port}",
        LISTEN_API_CERTIFICATE=str(made.chain),
        LISTEN_API_PRIVATE_KEY=str(made.key),
        LISTEN_API_TOKEN_FILE=str(token),
        LISTEN_API_ROLE="admin",
    ):
        done = subprocess.run(
            [
                program, "run", f"https://{LOOPBACK}:{port}/openapi.json",
                "--header", f"Authorization: Bearer {TOKEN}",
                "--tls-verify", str(made.ca),
                # What a URI or a pattern may be is more than a schema can say.
                "--exclude-checks", "positive_data_acceptance",
                "--phases", "examples,coverage,fuzzing",
                "--max-examples", "40", "--request-timeout", "20", "--seed", "21", "--no-color",
                *(part for path in LEFT_OUT for part in ("--exclude-path", path)),
            ],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=800,
        )  # fmt: skip
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert "generated" in done.stdout
