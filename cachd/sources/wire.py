"""Requests, locations, plans and credentials as JSON, to cross to the resolver process and back.

These messages hold credentials: they go over the channel, and nowhere else.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from cachd.credentials import Credentials, SourceOptions
from cachd.model import (
    Auth,
    Connect,
    Digest,
    Plan,
    PlannedFile,
    SignedUrl,
    UnpackRule,
    Validator,
)
from cachd.sources.base import Location, SourceRequest, Target

if TYPE_CHECKING:
    from collections.abc import Iterable

Json = dict[str, Any]


def request_to_json(request: SourceRequest) -> Json:
    return asdict(request)


def request_from_json(data: Json) -> SourceRequest:
    location = data["location"]
    credentials = dict(data["credentials"])
    credentials["headers"] = tuple(
        (host, _pairs(headers)) for host, headers in credentials["headers"]
    )
    return SourceRequest(
        location=Location(
            **{
                **location,
                "options": SourceOptions(**location["options"]),
                "registries": _pairs(location["registries"]),
            }
        ),
        allow=tuple(data["allow"]),
        ignore=tuple(data["ignore"]),
        identity=data["identity"],
        credentials=Credentials(**credentials),
    )


def auth_to_json(auth: Auth) -> Json:
    return asdict(auth)


def auth_from_json(data: Json) -> Auth:
    signed = tuple(
        SignedUrl(planned=one["planned"], url=one["url"], headers=_pairs(one["headers"]))
        for one in data["signed"]
    )
    return Auth(**{**data, "headers": _pairs(data["headers"]), "signed": signed})


def target_to_json(target: Target) -> Json:
    return asdict(target)


def target_from_json(data: Json) -> Target:
    return Target(**{**data, "options": SourceOptions(**data["options"])})


def plan_to_json(plan: Plan) -> Json:
    return {
        "revision": plan.revision,
        "files": [_file_to_json(file) for file in plan.files],
        "auth": auth_to_json(plan.auth),
        "connect": asdict(plan.connect),
        "unpack": plan.unpack,
        "rules": [asdict(rule) for rule in plan.rules],
        "needs_recheck": plan.needs_recheck,
        "is_immutable": plan.is_immutable,
        "is_validated": plan.is_validated,
        "is_credentialed": plan.is_credentialed,
        "is_read_proven": plan.is_read_proven,
        "metadata": dict(plan.metadata),
    }


def plan_from_json(data: Json) -> Plan:
    return Plan(
        **{
            **data,
            "files": tuple(_file_from_json(file) for file in data["files"]),
            "auth": auth_from_json(data["auth"]),
            "connect": Connect(**data["connect"]),
            "rules": tuple(UnpackRule(**rule) for rule in data["rules"]),
        }
    )


def _file_to_json(file: PlannedFile) -> list[Any]:
    """A row, for a model may have hundreds of thousands of files."""
    validator, digest = file.validator, file.digest
    return [
        file.path,
        file.url,
        file.size,
        validator.etag,
        validator.last_modified,
        validator.version_id,
        digest and digest.algorithm,
        digest and digest.value,
        file.ranges,
        file.range_query,
        file.post,
        file.headers,
    ]


def _file_from_json(row: list[Any]) -> PlannedFile:
    path, url, size, etag, last_modified, version_id, algorithm, value, ranges, *more = row
    range_query, post, headers = more
    return PlannedFile(
        path=path,
        url=url,
        size=size,
        validator=Validator(etag=etag, last_modified=last_modified, version_id=version_id),
        digest=None if algorithm is None else Digest(algorithm=algorithm, value=value),
        ranges=ranges,
        range_query=range_query,
        post=post,
        headers=_pairs(headers),
    )


def _pairs(rows: Iterable[Iterable[str]]) -> tuple[tuple[str, str], ...]:
    pairs = []
    for name, value in rows:
        pairs.append((name, value))
    return tuple(pairs)
