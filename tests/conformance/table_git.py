"""C53: git. A real server, by http on loopback; KServe's initializer takes https only."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.conformance.rows import Row
from tests.servers import require
from tests.servers.git import GitServer

if TYPE_CHECKING:
    from pathlib import Path

TREE = {"config.json": b"{}", "weights/model.bin": b"the weights" * 100}
ME = {"GIT_USERNAME": "me", "GIT_PASSWORD": "sesame"}
_NO_HISTORY = "leaves .git there"


def start_git(folder: Path) -> GitServer:
    """With one repository for everybody, and one for whoever has a password."""
    require.program("git", "git")
    server = GitServer(folder)
    for name, is_private in (("public.git", False), ("private.git", True)):
        server.make(name, is_private=is_private)
        server.commit(name, TREE)
    return server


ROWS = [
    Row(id="C53", case="public", uri="$git/public.git", tree=TREE, deviates=_NO_HISTORY),
    Row(id="C53", case="a user in the URL", uri="http://me@$git_host/private.git",
        env={"GIT_PASSWORD": "sesame"}, tree=TREE, deviates=_NO_HISTORY),
    Row(id="C53", case="user and password by the environment", uri="$git/private.git", env=ME,
        tree=TREE, deviates=_NO_HISTORY),
    Row(id="C53", case="a password in the URL is ignored",
        uri="http://me:sesame@$git_host/private.git", fails=(5,), says="authentication"),
    Row(id="C53", case="a wrong password", uri="$git/private.git",
        env={**ME, "GIT_PASSWORD": "wrong"}, fails=(5,), says="authentication failed"),
    Row(id="C53", case="no password", uri="$git/private.git", fails=(5,),
        says="authentication is needed"),
    Row(id="C53", case="no such repository", uri="$git/nothing.git", fails=(4,), says="not found"),
    Row(id="C53", case="a branch and a directory", uri="$git/public.git@main/weights",
        tree={"model.bin": TREE["weights/model.bin"]}, deviates="takes no ref and no directory"),
]  # fmt: skip
