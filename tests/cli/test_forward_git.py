"""What goes along for git."""

from __future__ import annotations

import pytest

from cachd.cli.forward import gather

URI = "https://host/o/repo.git"
USER = {"GIT_USERNAME": "me", "GIT_PASSWORD": "sesame"}
SENT = {"username": "me", "password": "sesame"}


@pytest.mark.parametrize(
    "uri", [URI, f"{URI}@main/sub", f"git+{URI}", "git+https://host/o/repo", f"cachd+{URI}"]
)
def test_user_and_password(uri: str) -> None:
    assert gather({**USER, "HF_TOKEN": "no"}, uri).credentials == SENT
    assert gather({"GIT_PASSWORD": "sesame"}, uri).credentials == {"password": "sesame"}
    assert gather(USER, uri, forward=False).credentials == {}


@pytest.mark.parametrize(
    "uri", ["https://host/m.tar.gz", "https://host/x?y=repo.git", "s3://b/repo.git", "models:/m/1"]
)
def test_they_go_nowhere_else(uri: str) -> None:
    assert gather(USER, uri).credentials == {}


def test_headers_for_the_host_go_along() -> None:
    found = gather({"host-headers": '{"X": "y"}', **USER}, URI)
    assert found.credentials == {**SENT, "headers": {"host": {"X": "y"}}}
