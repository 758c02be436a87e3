"""What a disk gives back may be anything: truncated, zeroed, somebody else's. Pure.

Everything that is wrong with a file of ours is a ValueError, whatever JSON makes of it (deep
nesting is a RecursionError to ``json``), so that one ``except`` keeps a bad file from stopping the
daemon; and what passes has the types that the code counts on.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, get_args

from cachd.model import BLOCK_SIZE, Identity, Manifest, Ref

if TYPE_CHECKING:
    from collections.abc import Iterable

IDENTITIES = frozenset(get_args(Identity))
MAX_SIZE = 1 << 62
"""Bytes: more than any file system takes for one file."""


def parse_object(data: bytes) -> dict[str, Any]:
    """A JSON object. Raises ValueError."""
    try:
        found = json.loads(data)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(found, dict):
        raise ValueError("it is no JSON object")
    return found


def is_size(value: object) -> bool:
    return type(value) is int and 0 <= value <= MAX_SIZE


def check(condition: bool, what: str) -> None:
    """Raises ValueError."""
    if not condition:
        raise ValueError(f"{what} is not what it should be")


def are_texts(values: Iterable[object]) -> bool:
    return all(type(value) is str for value in values)


def decode_ref(data: Any) -> Ref:
    """Raises ValueError."""
    try:
        ref = Ref.from_json(data)
    except (KeyError, TypeError) as error:
        raise ValueError(f"it has no ref: {error!r}") from None
    check(are_texts((ref.uri, ref.origin, ref.key, *ref.allow, *ref.ignore)), "the ref")
    return ref


def decode_manifest(data: bytes) -> Manifest:
    """Raises ValueError."""
    try:
        manifest = Manifest.from_json(parse_object(data))
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"it is no manifest: {error!r}") from None
    ref = manifest.ref
    check(are_texts((ref.uri, ref.origin, ref.key, *ref.allow, *ref.ignore)), "the ref")
    check(
        are_texts((manifest.revision, manifest.created, manifest.source, manifest.boot_id)),
        "the head",
    )
    check(type(manifest.identity) is str and manifest.identity in IDENTITIES, "the identity")
    check(manifest.namespace is None or type(manifest.namespace) is str, "the namespace")
    if (named := manifest.named) is not None:
        check(are_texts((named.uri, named.origin, named.registry)), "what a registry named")
    flags = (manifest.is_credentialed, manifest.is_validated, manifest.is_immutable)
    check(all(type(flag) is bool for flag in flags), "a flag")
    check(manifest.block_size == BLOCK_SIZE, "the size of blocks")
    for file in manifest.files:
        check(type(file.path) is str and is_size(file.size), "a file")
        check(file.etag is None or type(file.etag) is str, "an ETag")
        check(are_texts(file.blocks), "a block's checksum")
        for digest in file.digests:
            check(are_texts((digest.algorithm, digest.value)), "a digest")
    return manifest
