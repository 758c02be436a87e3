"""What a manifest's layers are: files, archives, layers of an image; and which manifest of an index
is meant. Pure.

Media types: OCI image-spec (manifest.md, media-types.md), Docker's image manifest V2 schema 2,
ModelPack's model-spec (docs/spec.md; ``vnd.cnai`` is its older name). What ``oras push`` does with
files and directories: oras-go, content/file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from cachd.errors import ContentError, NotFound, OriginError
from cachd.model import Digest, PlannedFile, UnpackRule, parse_digest
from cachd.names import check_name, check_tree, escape
from cachd.sources.census import MAX_SIZE, Census
from cachd.sources.patterns import is_wanted

if TYPE_CHECKING:
    from collections.abc import Sequence

INDEXES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
MANIFESTS = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
MODELS = "models"
"""The directory of an image that holds the model: KServe's convention for modelcars."""

Layout = Literal["image", "artifact", "modelpack"]

_IMAGE_CONFIGS = (
    "application/vnd.oci.image.config.v1+json",
    "application/vnd.docker.container.image.v1+json",
)
_LAYERS = (
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.nondistributable.v1.tar",
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.foreign.diff.tar",
)
_PACKED = ("", "+gzip", "+zstd", ".gzip", ".zstd")
_TITLE = "org.opencontainers.image.title"
_UNPACK = "io.deis.oras.content.unpack"
_MODELPACK = ("application/vnd.cncf.model.", "application/vnd.cnai.model.")
_FILEPATHS = ("org.cncf.model.filepath", "org.cnai.model.filepath")
_TARS = (".tar", ".tar+gzip", ".tar+zstd")
_SHA256 = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """A blob that a manifest names."""

    media_type: str
    digest: Digest
    size: int
    annotations: dict[str, str] = field(default_factory=dict)

    @property
    def is_image_layer(self) -> bool:
        return any(self.media_type == base + packed for base in _LAYERS for packed in _PACKED)

    @property
    def title(self) -> str:
        return self.annotations.get(_TITLE, "")

    @property
    def filepath(self) -> str:
        return next((self.annotations[n] for n in _FILEPATHS if self.annotations.get(n)), "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """What a plan says of a manifest. Without ``rules`` the files are the model's own."""

    files: tuple[PlannedFile, ...]
    rules: tuple[UnpackRule, ...] = ()


# --- an index -------------------------------------------------------------------------------------


def is_index(media_type: str, data: dict[str, Any]) -> bool:
    return media_type in INDEXES or (media_type not in MANIFESTS and "manifests" in data)


def choose(data: dict[str, Any], platform: str, what: str) -> str:
    """The digest of the manifest that an index has for ``platform`` (os/architecture, maybe
    /variant); of one that is for no platform, if none is for any. Raises NotFound, OriginError."""
    wanted = [*platform.split("/"), ""][:3]
    entries = data.get("manifests")
    if not isinstance(entries, list):
        raise OriginError(f"{what} is an index without manifests")
    exact: list[str] = []
    close: list[str] = []
    bare: list[str] = []
    others = set()
    for entry in entries:
        digest = entry.get("digest") if isinstance(entry, dict) else None
        if not isinstance(digest, str) or not _SHA256.fullmatch(digest):
            raise ContentError(f"{what} is an index with a manifest that has no sha256 digest")
        found = _platform(entry)
        if found is None:
            bare.append(digest)
        elif found[:2] == wanted[:2]:
            is_same = found[2] == wanted[2] if wanted[2] else not found[2]
            (exact if is_same else close).append(digest)
        elif found[0] != "unknown":
            others.add("/".join(part for part in found if part))
    if exact or close:
        return (exact or close)[0]
    if len(bare) == 1 and not others:
        return bare[0]
    have = ", ".join(sorted(others)) or f"{len(bare)} manifests for no platform"
    raise NotFound(
        f"{what} has no image for {platform}: it has {have}",
        hint="name the manifest by its digest, or set sources.oci.platform",
    )


def _platform(entry: dict[str, Any]) -> list[str] | None:
    found = entry.get("platform")
    if not isinstance(found, dict) or not found.get("os"):
        return None
    # Attestations of a build are listed as images of an unknown platform.
    return [str(found.get(name) or "").lower() for name in ("os", "architecture", "variant")]


# --- a manifest -----------------------------------------------------------------------------------


def layers_of(data: dict[str, Any], what: str) -> list[Layer]:
    """Raises OriginError for what is no manifest, ContentError for what can't be verified."""
    entries = data.get("layers")
    if data.get("schemaVersion") != 2 or not isinstance(entries, list):
        raise OriginError(f"{what} is no image manifest of OCI, or of Docker's second version")
    return [_layer(entry, what) for entry in entries]


def _layer(entry: Any, what: str) -> Layer:
    if not isinstance(entry, dict):
        raise OriginError(f"{what} has a layer that is no descriptor")
    size, digest, notes = entry.get("size"), entry.get("digest"), entry.get("annotations")
    if type(size) is not int or not 0 <= size < MAX_SIZE or not isinstance(digest, str):
        raise OriginError(f"{what} has a layer without a size or a digest")
    try:
        parsed = parse_digest(digest)
    except ValueError:
        parsed = None
    if parsed is None or parsed.algorithm != "sha256" or str(parsed) != digest:
        raise ContentError(
            f"{what} has a layer whose digest is no sha256", hint="push it with sha256 digests"
        )
    return Layer(
        media_type=str(entry.get("mediaType") or ""),
        digest=parsed,
        size=size,
        annotations={str(k): v for k, v in notes.items() if isinstance(v, str)}
        if isinstance(notes, dict)
        else {},
    )


def layout_of(data: dict[str, Any], layers: Sequence[Layer], what: str) -> Layout:
    """Decided by media types, then by annotations. Raises ContentError for neither."""
    config = data.get("config")
    config_type = str(config.get("mediaType") or "") if isinstance(config, dict) else ""
    types = [str(data.get("artifactType") or ""), config_type, *(la.media_type for la in layers)]
    if any(kind.endswith("+encrypted") for kind in types):
        raise ContentError(f"{what} has encrypted layers, which cachd can't read")
    are_image_layers = bool(layers) and all(layer.is_image_layer for layer in layers)
    # ModelPacks that container runtimes mount have layers of the types that images have.
    if any(kind.startswith(_MODELPACK) for kind in types[:2]):
        return "modelpack"
    if config_type in _IMAGE_CONFIGS and are_image_layers:
        return "image"
    if any(kind.startswith(_MODELPACK) for kind in types) or any(la.filepath for la in layers):
        return "modelpack"
    if any(layer.title for layer in layers):
        return "artifact"
    if are_image_layers:
        return "image"
    raise ContentError(
        f"{what} is neither an image nor an artifact with named files: its config is of type "
        f"{escape(config_type)}, its layers {_few(types[2:])}",
        hint="push the model as an image with a directory models/, with oras, or as a ModelPack",
    )


def content_of(
    layout: Layout,
    layers: Sequence[Layer],
    blobs: str,
    what: str,
    allow: Sequence[str] = (),
    ignore: Sequence[str] = (),
) -> Content:
    """Files and rules; ``blobs`` is the URL that digests are appended to. Patterns choose layers
    by their names; they don't look into archives. Raises PathUnsafe, ContentError, NotFound."""
    if layout == "image":
        return _image(layers, blobs)
    census = Census(what)
    named = []
    for layer in layers:
        name = layer.title if layout == "artifact" else layer.filepath or layer.title
        is_tar = (
            layer.annotations.get(_UNPACK) == "true"
            if layout == "artifact"
            else layer.media_type.endswith(_TARS)
        )
        if not name and not is_tar:
            # As oras does: what has no name isn't pulled. ModelPack names each raw file.
            if layout == "modelpack":
                raise ContentError(f"{what} has a file of no name ({escape(layer.media_type)})")
            continue
        census.count(name)
        if not name or is_wanted(name, allow, ignore):
            named.append((layer, name, is_tar))
    if not named:
        raise NotFound(
            f"Failed to fetch model. No model found in {what}.",
            hint="the artifact has no named file, or the patterns leave all of them out",
        )
    if any(is_tar for _, _, is_tar in named):
        return _mixed(named, blobs)
    files = tuple(_planned(layer, name, blobs) for layer, name, _ in named)
    check_tree(file.path for file in files)
    return Content(files=files)


def _image(layers: Sequence[Layer], blobs: str) -> Content:
    unique = {layer.digest.value: layer for layer in layers}
    return Content(
        files=tuple(_planned(la, _layer_name(la), blobs) for la in unique.values()),
        rules=tuple(
            UnpackRule(file=_layer_name(layer), kind="tar", strip=MODELS, is_overlay=True)
            for layer in layers
        ),
    )


def _mixed(named: Sequence[tuple[Layer, str, bool]], blobs: str) -> Content:
    """Files besides archives. Archives hold their members' whole names: oras packs a directory
    with its own name in front, ModelPack's tools with the path from the model's root."""
    check_tree(name for _, name, is_tar in named if not is_tar)
    files: dict[str, PlannedFile] = {}
    rules = []
    for number, (layer, name, is_tar) in enumerate(named):
        place = _layer_name(layer) if is_tar else f"file-{number}"
        files[place] = _planned(layer, place, blobs)
        rules.append(
            UnpackRule(file=place, kind="tar" if is_tar else "file", into="" if is_tar else name)
        )
    return Content(files=tuple(files.values()), rules=tuple(rules))


def _planned(layer: Layer, path: str, blobs: str) -> PlannedFile:
    check_name(path)
    return PlannedFile(
        path=path, url=f"{blobs}{layer.digest}", size=layer.size, digest=layer.digest
    )


def _layer_name(layer: Layer) -> str:
    return f"layer-{layer.digest.value}"


def _few(types: Sequence[str]) -> str:
    shown = [escape(kind) for kind in dict.fromkeys(types)]
    return ", ".join(shown[:4]) or "none"
