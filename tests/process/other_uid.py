"""Calls from processes of another uid."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.harness import Daemon

_AS_OTHER_UID = """
import os, sys, json
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from tests.harness import call
uid, arguments = int(sys.argv[2]), json.loads(sys.argv[3])
os.setgid(uid); os.setuid(uid)
reply = call(Path(arguments.pop(0)), *arguments)
print(json.dumps([reply.status, reply.body.decode()]))
"""


def call_as_other_uid(
    daemon: Daemon, method: str, target: str, body: dict | None, headers: dict, uid: int = 4242
) -> tuple[int, str]:
    """A call from a process of another uid (the daemon's own is root's in these tests)."""
    here = str(Path(__file__).parents[2])
    arguments = json.dumps([str(daemon.socket), method, target, body, headers])
    done = subprocess.run(
        [sys.executable, "-c", _AS_OTHER_UID, here, str(uid), arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    status, answer = json.loads(done.stdout)
    return status, answer


def as_other_uid(daemon: Daemon, body: dict) -> tuple[int, dict]:
    status, answer = call_as_other_uid(daemon, "POST", "/v1/models", body, {})
    return status, json.loads(answer)
