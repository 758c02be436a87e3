"""``mlflow://`` and what its artifact proxy has under the contract."""

from tests.contract.adapter import Adapter
from tests.contract.answers import given
from tests.contract.rows import EveryRow
from tests.harness import Daemon


class TestMlflow(EveryRow):
    def test_mlflows_own_scheme_means_the_same(self, adapter: Adapter, daemon: Daemon) -> None:
        place = adapter.put({"m/model.bin": b"weights", "m/sub/config.json": b"{}"})
        own = place.uri("m").replace("mlflow://", "models:/")
        given(place.ask(daemon, "m", uri=own), adapter.tree(place, "m"))
