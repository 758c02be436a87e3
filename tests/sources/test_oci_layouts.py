"""What a manifest is, decided by its media types and annotations; and which one of an index."""

from __future__ import annotations

from typing import Any

import pytest

from cachd.errors import CachdError, ContentError, NotFound, OriginError, PathUnsafe
from cachd.model import UnpackRule
from cachd.sources.oci_layout import choose, content_of, is_index, layers_of, layout_of
from tests.servers.registry import CONFIG, EMPTY_TYPE, INDEX, LAYER, TITLE

DOCKER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
UNKNOWN = "application/vnd.unknown.config.v1+json"
PACK = "application/vnd.cncf.model."
PATH = "org.cncf.model.filepath"
UNPACK = {"io.deis.oras.content.unpack": "true"}


def digest(number: int) -> str:
    return f"sha256:{number:064x}"


def manifest(
    *layers: tuple[str, dict[str, str]], config: str = EMPTY_TYPE, **more: Any
) -> dict[str, Any]:
    return {
        "schemaVersion": 2,
        "config": {"mediaType": config, "digest": digest(0), "size": 2},
        "layers": [
            {"mediaType": kind, "digest": digest(n), "size": 10 * n, "annotations": notes}
            for n, (kind, notes) in enumerate(layers, 1)
        ],
        **more,
    }


def titled(name: str, kind: str = LAYER, **more: str) -> tuple[str, dict[str, str]]:
    return kind, {TITLE: name, **more}


def look(data: dict[str, Any], **patterns: Any) -> tuple[str, Any]:
    layers = layers_of(data, "r/a")
    layout = layout_of(data, layers, "r/a")
    return layout, content_of(layout, layers, "https://r/v2/a/blobs/", "r/a", **patterns)


@pytest.mark.parametrize(
    ("data", "layout"),
    [
        pytest.param(manifest((LAYER, {}), config=CONFIG), "image", id="an image"),
        pytest.param(manifest((DOCKER, {}), config=DOCKER_CONFIG), "image", id="docker's"),
        pytest.param(manifest((LAYER + "+zstd", {}), config=CONFIG), "image", id="zstd"),
        pytest.param(manifest((LAYER, {}), config=UNKNOWN), "image", id="of an unknown config"),
        pytest.param(manifest(titled("a"), config=CONFIG), "image", id="with titles"),
        pytest.param(manifest(titled("a")), "artifact", id="oras"),
        pytest.param(manifest(titled("a"), config=UNKNOWN), "artifact", id="oras before 1.1"),
        pytest.param(manifest(titled("a", "application/x")), "artifact", id="any type"),
        pytest.param(
            manifest(titled("a", "application/x"), config=CONFIG), "artifact", id="image's config"
        ),
        pytest.param(
            manifest((PACK + "weight.v1.raw", {PATH: "a"}), config=PACK + "config.v1+json"),
            "modelpack",
            id="ModelPack",
        ),
        pytest.param(
            manifest(titled("a", PACK + "weight.v1.raw")), "modelpack", id="by its layers"
        ),
        pytest.param(
            manifest(
                (LAYER, {}),
                config=CONFIG,
                artifactType="application/vnd.cnai.model.manifest.v1+json",
            ),
            "modelpack",
            id="to be mounted",
        ),
        pytest.param(
            manifest(("application/vnd.docker.ai.gguf.v3", {PATH: "m.gguf"}), config="x/y"),
            "modelpack",
            id="by an annotation",
        ),
        pytest.param(
            manifest(
                ("application/vnd.cnai.model.weight.v1.raw", {"org.cnai.model.filepath": "a"})
            ),
            "modelpack",
            id="its older name",
        ),
    ],
)
def test_layouts(data: dict[str, Any], layout: str) -> None:
    assert look(data)[0] == layout


def test_an_image_is_its_layers_in_order() -> None:
    data = manifest((LAYER, {}), (LAYER, {}), config=CONFIG)
    data["layers"].append(data["layers"][0])
    _, content = look(data)
    names = [f"layer-{n:064x}" for n in (1, 2)]
    assert [file.path for file in content.files] == names
    assert [file.size for file in content.files] == [10, 20]
    assert content.files[0].url == f"https://r/v2/a/blobs/{digest(1)}"
    assert str(content.files[0].digest) == digest(1)
    assert content.rules == tuple(
        UnpackRule(file=name, kind="tar", strip="models", is_overlay=True)
        for name in (*names, names[0])
    )


def test_files_need_no_rules() -> None:
    _, content = look(manifest(titled("config.json"), titled("w/a.bin"), (LAYER, {})))
    assert [file.path for file in content.files] == ["config.json", "w/a.bin"]
    assert content.rules == ()


def test_directories_that_oras_packed() -> None:
    _, content = look(manifest(titled("config.json"), titled("w", LAYER + "+gzip", **UNPACK)))
    place = f"layer-{2:064x}"
    assert [file.path for file in content.files] == ["file-0", place]
    assert content.rules == (
        UnpackRule(file="file-0", kind="file", into="config.json"),
        UnpackRule(file=place, kind="tar"),
    )


def test_a_modelpack_of_files_and_archives() -> None:
    raw = (PACK + "weight.config.v1.raw", {PATH: "config.json"})
    for packed in (".tar", ".tar+gzip", ".tar+zstd"):
        _, content = look(manifest(raw, (PACK + "weight.v1" + packed, {PATH: "weights"})))
        assert [(rule.kind, rule.into) for rule in content.rules] == [
            ("file", "config.json"),
            ("tar", ""),
        ]
    _, content = look(manifest(raw, (PACK + "weight.v1.safetensors", {PATH: "w.safetensors"})))
    assert [file.path for file in content.files] == ["config.json", "w.safetensors"]
    with pytest.raises(ContentError, match="no name"):
        look(manifest((PACK + "weight.v1.raw", {}), config=PACK + "config.v1+json"))


def test_patterns_choose_by_name() -> None:
    data = manifest(titled("a.bin"), titled("b.json"), titled("d", LAYER, **UNPACK))
    _, content = look(data, allow=["*.bin", "d"])
    assert [rule.into for rule in content.rules] == ["a.bin", ""]
    _, content = look(data, ignore=["d", "a.*"])
    assert [file.path for file in content.files] == ["b.json"]
    with pytest.raises(NotFound, match="No model found in r/a"):
        look(data, allow=["*.gguf"])


@pytest.mark.parametrize("names", [["a", "a"], ["a", "a/b"], ["../a"], ["/a"], ["a\0"], ["./a"]])
def test_hostile_titles(names: list[str]) -> None:
    layers = [titled(name) for name in names]
    with pytest.raises(PathUnsafe):
        look(manifest(*layers))
    with pytest.raises(PathUnsafe):
        look(manifest(*layers, titled("d", LAYER, **UNPACK)))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        pytest.param(manifest(("x/y", {}), config="helm/config"), "neither an image", id="a chart"),
        pytest.param(manifest(config=CONFIG), "neither an image", id="no layers"),
        pytest.param(
            manifest((LAYER + "+gzip+encrypted", {}), config=CONFIG), "encrypted", id="encrypted"
        ),
        pytest.param({"schemaVersion": 1, "fsLayers": []}, "no image manifest", id="version 1"),
        pytest.param({"schemaVersion": 2}, "no image manifest", id="no list"),
        pytest.param(manifest() | {"layers": ["x"]}, "no descriptor", id="a word"),
        pytest.param(
            manifest() | {"layers": [{"digest": digest(1), "size": -1}]}, "size", id="a size"
        ),
        pytest.param(
            manifest() | {"layers": [{"digest": digest(1), "size": True}]}, "size", id="no number"
        ),
        pytest.param(
            manifest() | {"layers": [{"digest": "sha512:" + "0" * 128, "size": 1}]},
            "sha256",
            id="another digest",
        ),
        pytest.param(
            manifest() | {"layers": [{"digest": "sha256:../../x", "size": 1}]},
            "sha256",
            id="a path",
        ),
    ],
)
def test_manifests_that_are_refused(data: dict[str, Any], says: str) -> None:
    with pytest.raises((ContentError, OriginError), match=says):
        look(data)


# --- indexes --------------------------------------------------------------------------------------


def index(*platforms: dict[str, str] | None) -> dict[str, Any]:
    return {
        "schemaVersion": 2,
        "mediaType": INDEX,
        "manifests": [
            {"digest": digest(n), "size": 1, **({"platform": p} if p else {})}
            for n, p in enumerate(platforms, 1)
        ],
    }


def of(architecture: str, system: str = "linux", **more: str) -> dict[str, str]:
    return {"os": system, "architecture": architecture, **more}


ATTESTED = of("unknown", "unknown")


@pytest.mark.parametrize(
    ("platforms", "wanted", "chosen"),
    [
        ([of("arm64"), of("amd64")], "linux/amd64", 2),
        ([of("amd64"), of("amd64")], "linux/amd64", 1),
        ([of("amd64", "windows"), of("amd64")], "linux/amd64", 2),
        ([of("arm64", variant="v8")], "linux/arm64", 1),
        ([of("arm", variant="v6"), of("arm", variant="v7")], "linux/arm/v7", 2),
        ([of("arm", variant="v6"), of("arm")], "linux/arm", 2),
        ([None], "linux/amd64", 1),
        ([None, ATTESTED], "linux/amd64", 1),
        ([of("amd64"), ATTESTED, None], "linux/amd64", 1),
    ],
)
def test_the_manifest_for_a_platform(platforms: list[Any], wanted: str, chosen: int) -> None:
    assert choose(index(*platforms), wanted, "r/a") == digest(chosen)


@pytest.mark.parametrize(
    ("platforms", "says"),
    [
        ([of("arm64"), of("s390x")], "no image for linux/amd64: it has linux/arm64, linux/s390x"),
        ([None, None], "2 manifests for no platform"),
        ([None, of("arm64")], "it has linux/arm64"),
        ([], "0 manifests"),
    ],
)
def test_no_manifest_for_the_platform(platforms: list[Any], says: str) -> None:
    with pytest.raises(NotFound, match=says):
        choose(index(*platforms), "linux/amd64", "r/a")


def test_platforms_without_number_or_end() -> None:
    platforms = [{"os": f"os{n}", "architecture": "x" * 5000 + "\n"} for n in range(300)]
    with pytest.raises(NotFound) as caught:
        choose(index(*platforms), "linux/amd64", "r/a")
    assert len(caught.value.message) < 5000
    assert caught.value.message.isprintable()


@pytest.mark.parametrize("data", [{"manifests": 1}, {"manifests": ["x"]}, {"manifests": [{}]}])
def test_indexes_that_are_none(data: dict[str, Any]) -> None:
    with pytest.raises(CachdError):
        choose(data, "linux/amd64", "r/a")
    assert is_index("", data)
    assert not is_index("application/vnd.oci.image.manifest.v1+json", data)
