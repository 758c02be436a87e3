"""All sources beside each other: each scheme has its rows, and equal bytes are stored once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from cachd.sources.registry import Registry
from tests.contract.adapter import Adapter
from tests.contract.answers import given
from tests.contract.conftest import QUICK
from tests.harness import running
from tests.origins.fault import pattern

HERE = Path(__file__).parent
NAMES = sorted(path.stem for path in HERE.glob("adapters/[a-z]*.py"))
SHARING = ["http", "s3", "hf", "modelscope", "oci"]
"""Those whose sources tell a sha256 and whose servers are light."""
BODY = pattern(300_000)
ADAPTERS = {
    "abfs": "azure",
    "abfss": "azure",
    "git+http": "git",
    "git+https": "git",
    "gs": "google",
    "hdfs": "webhdfs",
    "https": "http",
    "mlflow-artifacts": "mlflow",
    "model-registry": "kubeflow",
    "models": "mlflow",
    "oci+fetch": "oci",
    "oci+native": "oci",
    "swebhdfs": "webhdfs",
    "wasb": "azure",
    "wasbs": "azure",
}
"""By scheme, where it isn't called the same: another form of the same source, or of a registry, or
what a registry's names lead to."""
BESIDE = {"azurefiles"}
"""Second adapters of a scheme."""
PATH = "m/model.bin"


def test_every_source_is_held_to_the_contract() -> None:
    modules = {path.stem.removeprefix("test_") for path in HERE.glob("test_*.py")}
    assert modules == {*NAMES, "together"}
    known = {ADAPTERS.get(scheme, scheme) for scheme in Registry(entry_points=()).schemes}
    assert known | BESIDE == set(NAMES)


def test_equal_bytes_of_several_sources_are_stored_once(
    make_adapter: Callable[[str], Adapter], tmp_path: Path
) -> None:
    adapters = [make_adapter(name) for name in SHARING]
    settings, environ = dict(QUICK), {}
    for adapter in adapters:
        assert "sha256" not in adapter.lacks
        settings |= adapter.settings
        environ |= adapter.environ
    inodes = set()
    with running(tmp_path, environ, **settings) as daemon:
        for adapter in adapters:
            place = adapter.put_shared({PATH: BODY})
            answer = given(place.ask(daemon, PATH, "none"), adapter.tree(place, PATH))
            inodes |= {path.stat().st_ino for path in Path(answer["path"]).iterdir()}
            assert answer["fetched_bytes"] == (0 if adapter is not adapters[0] else len(BODY))
    assert len(inodes) == 1
