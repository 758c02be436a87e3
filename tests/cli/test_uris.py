"""What is a URI on a command line, and what a path."""

from __future__ import annotations

import pytest

from cachd.cli.initializer import is_meant
from cachd.cli.local import local_path


@pytest.mark.parametrize("uri", ["models:/iris/3", "mlflow://iris/3", "s3://b/m", "cachd+hf://o/m"])
def test_uris_are_no_paths(uri: str) -> None:
    assert local_path(uri) is None
    assert is_meant([uri, "/mnt/models"])


@pytest.mark.parametrize("path", ["models/iris", "/models:/x", "./models:/iris", "file:///m"])
def test_paths_are_paths(path: str) -> None:
    assert local_path(path) is not None
