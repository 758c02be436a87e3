"""Chosen models as labels of the node: a real daemon, an API server on loopback."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from pydantic import ValidationError

from cachd.kube.labels import changes, wanted
from cachd.settings import KubernetesSettings, NodeLabelRule
from tests.harness import eventually, running
from tests.kube.cluster import Cluster

if TYPE_CHECKING:
    from pathlib import Path

    from tests.process.origin import CountingOrigin

LLAMA, FALCON = "cachd.dev/model-llama", "cachd.dev/model-falcon"


def test_the_node_says_what_it_has(
    cluster: Cluster, origin: CountingOrigin, tmp_path: Path
) -> None:
    origin.bodies = {"/llama.bin": b"llama", "/falcon.bin": b"falcon" * 100}
    others = {"kubernetes.io/hostname": "a", "cachd.dev/zone": "theirs", "pool": "gpu"}
    cluster.labels = {**others, "cachd.dev/model-old": "ready", FALCON: "ready"}
    rules = [
        {"match": f"{origin.url}/llama*", "label": LLAMA},
        {"match": "*falcon*", "label": FALCON},
    ]
    settings = cluster.settings(tmp_path, KUBERNETES_NODE_LABELS=json.dumps(rules))
    with running(tmp_path, **settings) as daemon:
        # At the start: what no rule names, and what isn't here, goes; what isn't ours stays.
        eventually(lambda: cluster.labels == others)
        origin.hold(0)
        assert daemon.ask(f"{origin.url}/falcon.bin", wait=False).status == 202
        eventually(lambda: cluster.labels == {**others, FALCON: "fetching"})
        origin.release()
        eventually(lambda: cluster.labels == {**others, FALCON: "ready"})
        answer = daemon.ask(f"{origin.url}/llama.bin").json()
        eventually(lambda: cluster.labels == {**others, FALCON: "ready", LLAMA: "ready"})
        assert daemon.admin("DELETE", f"/v1/models/{answer['key']}").status == 200
        eventually(lambda: cluster.labels == {**others, FALCON: "ready"})
        assert daemon.metric("cachd_node_label_patches_total", result="patched") >= 4
    # They stay while the daemon is replaced: the models do, too.
    assert cluster.labels[FALCON] == "ready"
    assert {method for method, _ in cluster.calls} == {"GET", "PATCH"}


def test_a_call_that_fails_is_made_again(
    cluster: Cluster, origin: CountingOrigin, tmp_path: Path
) -> None:
    cluster.is_down = True
    origin.bodies = {"/llama.bin": b"llama"}
    rules = json.dumps([{"match": "*llama*", "label": LLAMA}])
    settings = cluster.settings(tmp_path, KUBERNETES_NODE_LABELS=rules)
    with running(tmp_path, **settings) as daemon:
        eventually(lambda: daemon.metric("cachd_node_label_patches_total", result="failed") >= 1)
        cluster.is_down = False
        assert daemon.ask(f"{origin.url}/llama.bin").status == 200
        eventually(lambda: cluster.labels == {LLAMA: "ready"})


def test_which_labels_there_should_be() -> None:
    rules = [
        NodeLabelRule(match="s3://m/llama*", label=LLAMA),
        NodeLabelRule(match="s3://n/llama*", label=LLAMA),
        NodeLabelRule(match="*falcon*", label=FALCON),
    ]
    assert wanted(rules, ["s3://n/llama"], ["s3://m/llama-2", "s3://b/falcon"]) == {
        LLAMA: "ready",
        FALCON: "fetching",
    }
    assert wanted(rules, [], []) == {}


def test_what_is_changed_of_a_node() -> None:
    now = {"pool": "gpu", LLAMA: "fetching", "cachd.dev/model-old": "ready"}
    assert changes(now, {LLAMA: "ready"}) == {LLAMA: "ready", "cachd.dev/model-old": None}
    assert changes({"pool": "gpu", LLAMA: "ready"}, {LLAMA: "ready"}) == {}


@pytest.mark.parametrize(
    "label", ["model-x", "cachd.dev/x", "cachd.dev/model-", "other/model-x", "cachd.dev/model-x_"]
)
def test_other_labels_are_refused(label: str) -> None:
    with pytest.raises(ValidationError, match="looks like cachd"):
        NodeLabelRule(match="*", label=label)


def test_they_need_the_api_server() -> None:
    with pytest.raises(ValidationError, match="enabled"):
        KubernetesSettings(events=True)
