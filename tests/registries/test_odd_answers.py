"""Whatever JSON a registry answers with, an ask ends with a Target or with an error of ours."""

from __future__ import annotations

import asyncio
import copy
import json
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cachd.credentials import SourceOptions
from cachd.errors import CachdError
from cachd.model import Connect
from cachd.names import check_tree
from cachd.registries.base import Entry
from cachd.registries.kubeflow import KubeflowRegistry
from cachd.registries.mlflow import MlflowRegistry
from cachd.registries.mlflow_artifacts import _walk
from cachd.registries.server import Pass, RegistryServer
from cachd.settings import SourcesSettings
from cachd.sources.http_client import HttpAnswer
from cachd.sources.registry import Registry, split_scheme
from cachd.sources.wire import target_from_json, target_to_json

LOGGED = "m-0123456789abcdef0123456789abcdef"

KUBEFLOW: dict[str, Any] = {
    "registered_model": {"id": "1", "name": "m", "state": "LIVE", "customProperties": {"a": {}}},
    "versions": {
        "items": [
            {
                "id": "2",
                "name": "v1",
                "state": "LIVE",
                "createTimeSinceEpoch": "1700000000000",
                "customProperties": {"by": {"string_value": "x", "metadataType": "s"}},
            }
        ],
        "nextPageToken": "",
    },
    "artifacts": {
        "items": [
            {
                "id": "3",
                "artifactType": "model-artifact",
                "uri": "s3://bucket/models/m",
                "state": "LIVE",
                "storageKey": "k",
                "storagePath": "p",
            }
        ]
    },
}

MLFLOW: dict[str, Any] = {
    "registered-models/get": {
        "registered_model": {"name": "m", "latest_versions": [{"version": "1", "status": "READY"}]}
    },
    "model-versions/get-download-uri": {"artifact_uri": f"models:/{LOGGED}"},
    f"logged-models/{LOGGED}": {
        "model": {
            "info": {
                "name": "m",
                "artifact_uri": "mlflow-artifacts:/1/models/m/artifacts",
                "creation_timestamp_ms": 1700000000000,
                "tags": [{"key": "k", "value": "v"}],
            }
        }
    },
}

PROXY: dict[str, Any] = {
    "artifacts?path=root": {"files": [{"path": "MLmodel", "is_dir": False, "file_size": 3}]}
}

odd = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**6), 10**20)
    | st.sampled_from(
        [
            *("9" * 5000, f"{'x' * 5000}://y", "a\nb", "\ud800", "s3://["),
            *("mlflow-artifacts://[x", f"mlflow-artifacts://{'x' * 5000}/y", "\0", "²", "1e400"),
        ]
    )
    | st.floats()
    | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["id", "uri", "items", "x"]), inner, max_size=3)
    ),
    max_leaves=6,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path] if path else []
    if isinstance(value, dict):
        for name in value:
            found += places(value[name], (*path, name))
    elif isinstance(value, list):
        for number, each in enumerate(value):
            found += places(each, (*path, number))
    return found


def changed(answers: dict[str, Any], path: tuple[Any, ...], to: Any) -> dict[str, Any]:
    answers = copy.deepcopy(answers)
    place: Any = answers
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = to
    return answers


class Client:
    """Gives the answer whose name ends the URL, or its path."""

    def __init__(self, answers: dict[str, Any]) -> None:
        self._answers = answers

    async def call(self, method: str, url: str, **_: Any) -> HttpAnswer:
        ends = (url, urlsplit(url).path)
        found = [body for name, body in self._answers.items() for end in ends if end.endswith(name)]
        return HttpAnswer(
            url=url,
            status=200,
            headers={},
            sent_headers=(),
            first_headers=(),
            needs_final=False,
            was_credentialed=False,
            body=json.dumps(found[0] if found else {}).encode(),
        )


def server_of(answers: dict[str, Any], kind: str) -> RegistryServer:
    return RegistryServer(
        Client(answers),  # type: ignore[arg-type]
        kind=kind,
        name="",
        url="http://registry.example",
        shown=Pass(),
        rule=None,
        environ={},
        root="s3://root",
        connect=Connect(),
    )


async def name(registry: Any, answers: dict[str, Any]) -> str:
    target = await registry.name(Entry(model="m"), server_of(answers, registry.kind))
    # As the daemon gets it, and goes on with it.
    target = target_from_json(json.loads(json.dumps(target_to_json(target)).encode()))
    assert all(text.encode() for text in target.metadata.values())
    sources = Registry()
    _, plain = split_scheme(target.uri)
    source = sources.source(sources.name_of(plain))
    source.locate(plain, SourceOptions(), SourcesSettings(), {})
    return target.uri


def ends_well(act: Any) -> None:
    problem = None
    try:
        asyncio.run(act)
    except CachdError as error:
        problem = error.to_wire()
    assert problem is None or problem["code"] != "internal"
    # A log's line, and a pod's termination message.
    message = problem["message"] if problem else ""
    assert message.isprintable()
    assert len(message) < 1000


@pytest.mark.parametrize(
    ("registry", "answers", "uri"),
    [
        (KubeflowRegistry(), KUBEFLOW, "s3://bucket/models/m"),
        (
            MlflowRegistry(),
            {**MLFLOW, "model-versions/get-download-uri": {"artifact_uri": "s3://bucket/m"}},
            "s3://bucket/m",
        ),
    ],
)
def test_what_is_changed_is_right_before(registry, answers, uri):
    assert asyncio.run(name(registry, answers)) == uri


@settings(max_examples=300)
@given(data=st.data(), to=odd)
def test_kubeflow(data, to):
    path = data.draw(st.sampled_from(places(KUBEFLOW)))
    ends_well(name(KubeflowRegistry(), changed(KUBEFLOW, path, to)))


@settings(max_examples=300)
@given(data=st.data(), to=odd)
def test_mlflow(data, to):
    path = data.draw(st.sampled_from(places(MLFLOW)))
    ends_well(name(MlflowRegistry(), changed(MLFLOW, path, to)))


@settings(max_examples=300)
@given(data=st.data(), to=odd)
def test_mlflows_proxy(data, to):
    async def walk() -> None:
        answers = changed(PROXY, data.draw(st.sampled_from(places(PROXY))), to)
        rows = [row async for row in _walk(server_of(answers, "mlflow"), "root")]
        check_tree(path for path, _ in rows)
        assert all(size >= 0 for _, size in rows)

    ends_well(walk())
