"""Which registry a URI means, and what in it. Pure."""

from __future__ import annotations

from typing import Any

import pytest

from cachd.errors import UriInvalid
from cachd.registries.base import Entry
from cachd.registries.kinds import kind_of
from cachd.registries.source import _split
from tests.registries.asking import locate

MAIN = {"name": "main", "kind": "model-registry", "url": "http://mr.main.svc:8080"}
TEAM = {
    "name": "team", "kind": "model-registry", "url": "https://mr.team.svc:8443",
    "match": ["team-*"],
}  # fmt: skip
TRACKING = {"name": "tracking", "kind": "mlflow", "url": "https://mlflow.example"}
BASE = {"MODEL_REGISTRY_BASE_URL": "mr.example:8080"}


def parse(uri: str, *hosts: str) -> Entry:
    scheme = uri.partition("://")[0]
    path, query = _split(uri)
    return kind_of(scheme).parse(
        scheme, path, query, lambda part: ":" in part or "." in part or part in hosts
    )


@pytest.mark.parametrize(
    ("uri", "entry"),
    [
        # The table of kubeflow/model-registry, modelregistry_provider_test.go.
        ("iris", Entry(model="iris")),
        ("iris/v1", Entry(model="iris", version="v1")),
        ("localhost:8080/iris", Entry(host="localhost:8080", model="iris")),
        ("localhost:8080/iris/v1", Entry(host="localhost:8080", model="iris", version="v1")),
        ("iris?namespace=profile-alpha", Entry(model="iris", namespace="profile-alpha")),
        ("iris/v1?namespace=ns", Entry(model="iris", version="v1", namespace="ns")),
        (
            "localhost:8080/iris/v1?namespace=ns",
            Entry(host="localhost:8080", model="iris", version="v1", namespace="ns"),
        ),
        # cachd's rule decides where KServe's downloader probes.
        ("mr.svc/iris", Entry(host="mr.svc", model="iris")),
        ("team/iris", Entry(host="team", model="iris")),
        ("short/iris/v1", Entry(host="short", model="iris", version="v1")),
        ("h:1/iris/a/b", Entry(host="h:1", model="iris", version="a/b")),
        ("iris/1.0", Entry(model="iris", version="1.0")),
        ("iris/", Entry(model="iris")),
    ],
)
def test_forms_of_model_registry(uri: str, entry: Entry):
    assert parse(f"model-registry://{uri}", "team") == entry


@pytest.mark.parametrize(
    ("uri", "entry"),
    [
        ("mlflow://iris", Entry(model="iris")),
        ("mlflow://iris/3", Entry(model="iris", version="3")),
        ("mlflow://iris/latest", Entry(model="iris")),
        ("mlflow://iris/champion", Entry(model="iris", alias="champion")),
        ("mlflow://iris@champion", Entry(model="iris", alias="champion")),
        ("mlflow://h:5000/iris@champion", Entry(host="h:5000", model="iris", alias="champion")),
        ("mlflow://ml.example/iris/3", Entry(host="ml.example", model="iris", version="3")),
        ("models://a.b.c/3", Entry(model="a.b.c", version="3")),
        ("models://iris@champion", Entry(model="iris", alias="champion")),
        ("models://m-" + "a" * 32, Entry(model="m-" + "a" * 32)),
    ],
)
def test_forms_of_mlflow(uri: str, entry: Entry):
    assert parse(uri) == entry


@pytest.mark.parametrize(
    "uri",
    [
        "model-registry://",
        "model-registry:///v1",
        "model-registry://a//v1",
        "model-registry://localhost:8080",
        "model-registry://a?namespace=a.b",
        "model-registry://a?other=1",
        "model-registry://a?namespace=a&namespace=b",
        "model-registry://a#b",
        "mlflow://",
        "mlflow://a/1/2",
        "mlflow://a@b/1",
        "mlflow://a@",
        "mlflow://h:1",
        "mlflow://a?x=1",
    ],
)
def test_what_no_registry_can_be_asked(uri: str):
    with pytest.raises(UriInvalid):
        locate(uri, environ={**BASE, "MLFLOW_TRACKING_URI": "http://ml:5000"})


@pytest.mark.parametrize(
    ("uri", "given", "places"),
    [
        ("model-registry://iris", {}, [("", "http://mr.example:8080")]),
        ("model-registry://h:1/iris", {}, [("", "http://h:1")]),
        ("model-registry://h:443/iris", {}, [("", "https://h")]),
        ("model-registry://mr.example:8080/iris", {}, [("", "http://mr.example:8080")]),
        (
            "model-registry://iris?namespace=ns", {},
            [("", "http://model-registry-service.ns.svc.cluster.local:8080")],
        ),
        ("model-registry://iris", {"registry": "https://own:1/"}, [("", "https://own:1")]),
        ("model-registry://iris", {"registry": MAIN["url"]}, [("main", MAIN["url"])]),
    ],
)  # fmt: skip
def test_who_is_asked(uri: str, given: dict[str, Any], places: list[tuple[str, str]]):
    rules = [MAIN] if given.get("registry") == MAIN["url"] else []
    assert list(locate(uri, *rules, environ=BASE, **given).registries) == places


@pytest.mark.parametrize(
    ("environ", "url"),
    [
        ({"MLFLOW_TRACKING_URI": "http://ml:5000"}, "http://ml:5000"),
        ({"MLFLOW_REGISTRY_URI": "http://mr:5000"}, "http://mr:5000"),
        ({"MLFLOW_TRACKING_URI": "http://ml:5000", "MLFLOW_REGISTRY_URI": "http://mr:5000"},
         "http://mr:5000"),
        ({"MLFLOW_TRACKING_URI": "http://ml:5000", "MLFLOW_REGISTRY_URI": ""}, "http://ml:5000"),
    ],
)  # fmt: skip
def test_mlflows_registry_comes_before_its_tracking_server(environ: dict[str, str], url: str):
    for uri in ("mlflow://iris/3", "models://iris/3"):
        assert list(locate(uri, environ=environ).registries) == [("", url)]


def test_configured_ones_come_in_order_and_by_match():
    both = [("team", TEAM["url"]), ("main", MAIN["url"])]
    rules = (TEAM, MAIN, TRACKING)
    assert list(locate("model-registry://team-a/1", *rules).registries) == both
    assert list(locate("model-registry://iris", *rules).registries) == both[1:]
    for uri in ("model-registry://team/iris", "model-registry://iris?registry=team",
                "model-registry://mr.team.svc:8443/iris"):  # fmt: skip
        assert list(locate(uri, *rules).registries) == both[:1]
    # A bracket is a bracket, as in every pattern.
    bracket = {**TEAM, "match": ["[a-z]*"]}
    assert list(locate("model-registry://iris", bracket, MAIN).registries) == both[1:]
    with pytest.raises(UriInvalid, match="called 'other'"):
        locate("model-registry://iris?registry=other", *rules)
    with pytest.raises(UriInvalid, match="none of the kind mlflow"):
        locate("mlflow://iris", MAIN)
    assert list(locate("models://iris/1", *rules).registries) == [("tracking", TRACKING["url"])]


def test_what_makes_another_key():
    plain = locate("model-registry://iris", MAIN)
    assert plain.is_default_origin
    assert plain.origin == f"model-registry+{MAIN['url']}"
    assert locate("model-registry://iris/", MAIN) == plain
    same = locate("model-registry://iris", MAIN, registry=MAIN["url"])
    assert (same.origin, same.is_default_origin) == (plain.origin, True)
    for options in (
        {"registry": "http://elsewhere:1"},
        {"endpoint": "http://minio:9000"},
        {"root": "s3://bucket"},
    ):
        other = locate("model-registry://iris", MAIN, **options)
        assert other.origin != plain.origin
        assert not other.is_default_origin
    # What the daemon would use anyway makes none.
    aws = locate("model-registry://iris", MAIN, endpoint="https://s3.amazonaws.com")
    assert aws.origin == plain.origin
