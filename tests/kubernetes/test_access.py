"""Who may have what, by the namespace of a pod's service account."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.kubernetes.conftest import NewPod, NewRelease
from tests.kubernetes.pods import kserve_pod
from tests.process.origin import CountingOrigin


def test_a_second_namespace_is_denied_by_a_rule(
    namespace: str,
    new_namespace: Callable[[], str],
    origin: CountingOrigin,
    new_pod: NewPod,
    new_release: NewRelease,
) -> None:
    rule = {"name": "first-alone", "namespaces": [namespace], "uris": [f"{origin.url}/*"]}
    rules = {
        "rules": [{**rule, "verbs": ["read", "fetch"]}],
        "config": {"access": {"default": "deny"}},
    }
    ruled = new_release("ruled", rules)
    origin.bodies["/m/model.bin"] = b"secret"
    where: dict[str, Any] = {"sockets": ruled.sockets, "cache": ruled.cache}
    item = kserve_pod("p", f"{origin.url}/m/model.bin", "/mnt/models", with_token=True, **where)
    assert new_pod(item).wait_running().read("model.bin") == b"secret"
    requests = origin.requests.total()
    ended = new_pod(item, new_namespace()).wait_terminated()
    assert ended["exitCode"] == 1
    assert "rule" in ended["message"], ended
    without = kserve_pod("q", f"{origin.url}/m/model.bin", "/mnt/models", **where)
    ended = new_pod(without).wait_terminated()
    assert ended["exitCode"] == 1, "who shows no token is in no namespace"
    assert origin.requests.total() == requests, "who may not is not asked for"
