"""Sample models: valid safetensors shards of random bytes, and the small files beside them."""

from __future__ import annotations

import hashlib
import json
import random
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MIB = 1024 * 1024


@dataclass(frozen=True)
class Sample:
    """A model on disk: ``digests`` has the sha256 of each file by its relative path."""

    name: str
    tree: Path
    digests: dict[str, str]
    bytes: int


def write_safetensors(path: Path, tensors: dict[str, tuple[int, ...]], seed: random.Random) -> None:
    """One shard: 8 bytes of header length, a JSON header, the tensors' bytes (BF16) in order."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in tensors.items():
        start, end = end, end + 2 * _count(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for left in range(end, 0, -4 * MIB):
            file.write(seed.randbytes(min(left, 4 * MIB)))


def make_sample(directory: Path, name: str, layers: int, shards: int, seed: int) -> Sample:
    """A model of ``layers`` blocks of 14 MiB in ``shards`` shards, with the usual small files."""
    tree = directory / name
    tree.mkdir(parents=True)
    source = random.Random(seed)
    weight_map: dict[str, str] = {}
    for shard in range(shards):
        file = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        tensors = dict(
            tensor
            for layer in range(shard * layers // shards, (shard + 1) * layers // shards)
            for tensor in _layer(layer)
        )
        write_safetensors(tree / file, tensors, source)
        weight_map |= dict.fromkeys(tensors, file)
    total = sum(2 * _count(shape) for layer in range(layers) for _, shape in _layer(layer))
    texts = {
        "config.json": _json(
            architectures=["SampleForCausalLM"], hidden_size=1024, num_hidden_layers=layers
        ),
        "generation_config.json": _json(temperature=0.7, top_p=0.9, eos_token_id=2),
        "model.safetensors.index.json": _json(
            metadata={"total_size": total}, weight_map=weight_map
        ),
        "tokenizer.json": _json(
            version="1.0", model={"type": "BPE", "vocab": {f"t{n}": n for n in range(4096)}}
        ),
        "README.md": f"# {name}\n\nRandom weights in the shape of a model.\n",
        ".gitattributes": "",
    }
    for file, text in texts.items():
        (tree / file).write_text(text)
    files = sorted(path for path in tree.rglob("*") if path.is_file())
    return Sample(
        name=name,
        tree=tree,
        digests={str(path.relative_to(tree)): sha256(path) for path in files},
        bytes=sum(path.stat().st_size for path in files),
    )


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def differences(tree: Path, digests: dict[str, str]) -> list[str]:
    """What in ``tree`` isn't byte for byte the sample: missing, different and strange files."""
    there = {str(path.relative_to(tree)) for path in tree.rglob("*") if path.is_file()}
    return (
        [f"missing: {name}" for name in sorted(digests.keys() - there)]
        + [f"unexpected: {name}" for name in sorted(there - digests.keys())]
        + [
            f"different: {name}"
            for name in sorted(there & digests.keys())
            if sha256(tree / name) != digests[name]
        ]
    )


def _layer(layer: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    block = f"model.layers.{layer}"
    for part in ("q_proj", "k_proj", "v_proj", "o_proj"):
        yield f"{block}.self_attn.{part}.weight", (1024, 1024)
    yield f"{block}.mlp.gate_proj.weight", (1536, 1024)
    yield f"{block}.mlp.down_proj.weight", (1024, 1536)


def _count(shape: tuple[int, ...]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count


def _json(**data: object) -> str:
    return json.dumps(data, indent=2) + "\n"
