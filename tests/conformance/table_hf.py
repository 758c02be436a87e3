"""C50–C52: ``hf://``, and patterns from the environment."""

from __future__ import annotations

from typing import Any

from tests.conformance.rows import Row

W = b"weights" * 1000
J = b"{}"
TOKEN = "hf_of_the_rows"
REPOSITORIES = {
    "org/m": {"model.safetensors": W, "config.json": J, "onnx/model.onnx": W + b"o", "b.bin": W},
    "org/archive": {"model.tar.gz": b"no archive"},
}
SECOND = {"model.safetensors": W + b"2"}
ALL = REPOSITORIES["org/m"]
JSON_ONLY = {"config.json": J}


def hf(id: str, case: str, rest: str, **fields: Any) -> Row:
    """A row with the environment that KServe's injector makes of a secret."""
    return Row(
        id=id, case=case, uri=f"hf://{rest}", **{**fields, "env": ENV | fields.get("env", {})}
    )


ENV = {"HF_ENDPOINT": "$hub", "HF_HUB_ENABLE_HF_TRANSFER": "1", "HF_XET_HIGH_PERFORMANCE": "1"}

REVISIONS = [
    hf("C50", "a model", "org/m", tree=ALL, deviates="leaves its notes in .cache/huggingface"),
    hf("C50", "a revision", "org/m:v2", tree=SECOND),
    hf("C50", "a path", "org/m:main/onnx", tree={"model.onnx": W + b"o"}, deviates="refuses it"),
    hf("C50", "the only file is an archive", "org/archive",
       tree=REPOSITORIES["org/archive"]),
    hf("C50", "a private model", "org/private", env={"HF_TOKEN": TOKEN}, tree=ALL),
    hf("C50", "a private model without a token", "org/private", fails=(5,),
       says="send a token that may read it (HF_TOKEN)"),
    hf("C50", "a gated model without a token", "org/gated", fails=(5,), says="is gated"),
    hf("C50", "a wrong token", "org/m", env={"HF_TOKEN": "hf_wrong"}, fails=(5,),
       says="the token that was sent is refused"),
    hf("C50", "no such revision", "org/m:v3", fails=(4,), says="no revision 'v3'"),
]  # fmt: skip

INVALID = [
    hf("C51", rest or "nothing", rest, fails=(2,), says=says)
    for rest, says in (
        ("", "Invalid Hugging Face URI format"),
        ("repo_only", "Invalid Hugging Face URI format"),
        ("/model_only", "repository owner cannot be empty"),
        ("repo/:hash_value", "model name cannot be empty"),
        ("repo/m:", "revision cannot be empty"),
    )
]

PATTERNS = [
    hf("C52", case, "org/m", env={"STORAGE_ALLOW_PATTERNS": text}, tree=tree)
    for case, text, tree in (
        ("a JSON list", '["*.json", "*.md"]', JSON_ONLY),
        ("a JSON string", '"*.json"', JSON_ONLY),
        ("a list with commas", "*.json,*.md", JSON_ONLY),
        ("nothing", "", ALL),
        ("an empty JSON list", "[]", ALL),
    )
] + [
    hf("C52", "ignore", "org/m",
       env={"STORAGE_ALLOW_PATTERNS": '["*.safetensors", "*.json", "*.onnx"]',
            "STORAGE_IGNORE_PATTERNS": "onnx/*,*.json"},
       tree={"model.safetensors": W}),
]  # fmt: skip

ROWS = REVISIONS + INVALID + PATTERNS
