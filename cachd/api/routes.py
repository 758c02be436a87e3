"""The table of routes. It registers them, documents them, and says who may use them."""

from __future__ import annotations

from typing import Final

from cachd import errors
from cachd.api import archive, files, leases, models, ops, probes
from cachd.api.asking import ERRORS_OF_ASKING
from cachd.api.routes_keeping import KEEPING_ROUTES
from cachd.api.routes_verifying import VERIFYING_ROUTES
from cachd.api.routes_views import VIEW_ROUTES
from cachd.api.routing import Parameter, Reply, Route
from cachd.api.shapes import FLAG, TEXT, ref
from cachd.api.stream import NDJSON

_JSON = "application/json"
_TAR = "application/x-tar"
_BYTES = "application/octet-stream"
_BINARY = {"type": "string", "contentMediaType": _BYTES}

_REVISION = Parameter(
    name="revision", schema=TEXT, description="a revision; else the lease's, else the current one"
)
_LEASE = Parameter(
    name=models.LEASE_HEADER,
    schema=TEXT,
    where="header",
    description="a lease's id: a pass to read its model",
)

_READING = (
    _REVISION,
    _LEASE,
    Parameter(name="If-None-Match", schema=TEXT, where="header", description="ETags that you have"),
)

_RANGES = (
    Parameter(name="Range", schema=TEXT, where="header", description="one range of bytes"),
    Parameter(
        name="If-Range", schema=TEXT, where="header", description="range only if this ETag holds"
    ),
    Parameter(
        name="If-Match", schema=TEXT, where="header", description="412 if the file is another"
    ),
)


def _json(status: int, description: str, schema: str) -> Reply:
    return Reply(status=status, description=description, content={_JSON: ref(schema)})


def _body(*schemas: str) -> dict[str, dict[str, object]]:
    found = [ref(schema) for schema in schemas]
    return {_JSON: found[0] if len(found) == 1 else {"anyOf": found}}


_NOT_MODIFIED = Reply(status=304, description="You have it already.")

ROUTES: Final[tuple[Route, ...]] = (
    Route(
        method="POST",
        path="/v1/models",
        name="ask",
        handler=models.ask,
        summary="Have a model here",
        is_for_peers=True,
        description="Waits until the model is on this node. With `wait: false` it answers at once; "
        "with `Accept: application/x-ndjson` it streams progress. A caller that goes away harms "
        "nobody else's fetch.",
        is_ask=True,
        body=_body("Ask"),
        replies=(
            Reply(
                status=200,
                description="It is there.",
                content={_JSON: ref("Answer"), NDJSON: ref("AskEvent")},
            ),
            _json(202, "It is being fetched (wait: false).", "Fetching"),
        ),
        errors=ERRORS_OF_ASKING,
    ),
    Route(
        method="GET",
        path="/v1/models",
        name="list",
        handler=models.list_models,
        summary="What is here, as far as the caller may see it",
        is_for_peers=True,
        replies=(_json(200, "Models and the store's numbers.", "Models"),),
    ),
    Route(
        method="GET",
        path="/v1/prefetch",
        name="prefetch",
        handler=models.list_prefetched,
        summary="What should be here without being asked for, and how far it is",
        is_admin=True,
        replies=(_json(200, "The rules of the setting prefetch.", "Prefetched"),),
    ),
    Route(
        method="GET",
        path="/v1/models/{key}",
        name="show",
        handler=models.show,
        summary="One model, with its files",
        is_for_peers=True,
        parameters=(
            _REVISION,
            Parameter(name="blocks", schema=FLAG, description="with the checksum of each block"),
            _LEASE,
        ),
        replies=(_json(200, "The model.", "ModelDetails"),),
        errors=(errors.ModelUnknown,),
    ),
    Route(
        method="DELETE",
        path="/v1/models/{key}",
        name="remove",
        handler=models.remove,
        summary="Remove a model",
        is_admin=True,
        verb="evict",
        parameters=(
            Parameter(name="force", schema=FLAG, description="even if leased, pinned or fetched"),
        ),
        replies=(_json(200, "It is gone.", "Removed"),),
        errors=(errors.ModelUnknown, errors.InUse),
    ),
    *KEEPING_ROUTES,
    Route(
        method="POST",
        path="/v1/models/{key}/leases",
        name="lease",
        handler=leases.take,
        summary="Keep a model for a while",
        parameters=(_LEASE,),
        body=_body("LeaseTaking"),
        is_body_required=False,
        replies=(_json(201, "The lease.", "Lease"),),
        errors=(errors.ModelUnknown, errors.Forbidden, errors.TooManyLeases),
    ),
    Route(
        method="PUT",
        path="/v1/models/{key}/leases/{id}",
        name="renew",
        handler=leases.renew,
        summary="Keep it longer",
        body=_body("LeaseRenewal"),
        is_body_required=False,
        replies=(_json(200, "The lease.", "Lease"),),
        errors=(errors.LeaseUnknown,),
    ),
    Route(
        method="DELETE",
        path="/v1/models/{key}/leases/{id}",
        name="release",
        handler=leases.release,
        summary="Let go",
        replies=(_json(200, "Let go.", "LeaseReleased"),),
        errors=(errors.LeaseUnknown,),
    ),
    *VIEW_ROUTES,
    Route(
        method="GET",
        path="/v1/models/{key}/files/{path}",
        name="file",
        handler=files.get,
        summary="A file, or a range of it",
        is_for_peers=True,
        parameters=(*_READING, *_RANGES),
        replies=(
            Reply(status=200, description="The whole file.", content={_BYTES: _BINARY}),
            Reply(status=206, description="The range.", content={_BYTES: _BINARY}),
            _NOT_MODIFIED,
        ),
        errors=(errors.ModelUnknown, errors.FileUnknown, errors.Forbidden, errors.DiskError),
        http_errors=(412, 416),
    ),
    Route(
        method="HEAD",
        path="/v1/models/{key}/files/{path}",
        name="file_head",
        handler=files.get,
        summary="A file's size, ETag and digest",
        is_for_peers=True,
        parameters=_READING,
        replies=(Reply(status=200, description="Headers alone."), _NOT_MODIFIED),
        errors=(errors.ModelUnknown, errors.FileUnknown, errors.Forbidden, errors.DiskError),
        http_errors=(412,),
    ),
    Route(
        method="GET",
        path="/v1/models/{key}/archive.tar",
        name="archive",
        handler=archive.get,
        summary="The whole model as one tar",
        is_for_peers=True,
        description="The first member is `.cachd-manifest.json`; the files follow, by path. The "
        "same snapshot gives the same bytes.",
        parameters=_READING,
        replies=(
            Reply(status=200, description="The tar.", content={_TAR: _BINARY}),
            _NOT_MODIFIED,
        ),
        errors=(errors.ModelUnknown, errors.Forbidden, errors.ContentError, errors.DiskError),
    ),
    Route(
        method="POST",
        path="/v1/import",
        name="import_model",
        handler=ops.import_model,
        summary="Bring a model in a tar",
        description="An archive of this API, verified against its manifest, or a plain tar.",
        is_admin=True,
        is_ask=True,
        parameters=(
            Parameter(
                name="uri", schema=TEXT, description="what the model is called", is_required=True
            ),
        ),
        body={_TAR: _BINARY},
        replies=(_json(200, "It is there.", "Answer"),),
        errors=(errors.UriInvalid, errors.ContentError, errors.NoSpace, errors.DeadlineExceeded),
    ),
    Route(
        method="POST",
        path="/v1/plan",
        name="plan",
        handler=ops.plan,
        summary="Would it fit, and what would go",
        is_ask=True,
        body=_body("Ask", "SpaceQuestion"),
        replies=(_json(200, "What would happen; nothing did.", "SpacePlan"),),
        errors=ERRORS_OF_ASKING,
    ),
    Route(
        method="POST",
        path="/v1/key",
        name="key",
        handler=ops.key,
        summary="The key of a URI on this daemon",
        description="Nothing is asked of the source, and nothing is fetched.",
        body=_body("Ask"),
        replies=(_json(200, "The ref and its key.", "Ref"),),
        errors=(errors.UriInvalid, errors.SchemeUnknown, errors.PatternInvalid),
    ),
    Route(
        method="POST",
        path="/v1/gc",
        name="gc",
        handler=ops.gc,
        summary="Evict down to a target",
        is_admin=True,
        verb="evict",
        body=_body("Collection"),
        is_body_required=False,
        replies=(_json(200, "What went, or would go.", "Collected"),),
    ),
    *VERIFYING_ROUTES,
    Route(
        method="POST",
        path="/v1/may",
        name="may",
        handler=ops.may,
        summary="What the access rules say of somebody, and why",
        description="Nothing is done and nothing is counted.",
        is_admin=True,
        body=_body("MayQuestion"),
        replies=(_json(200, "The decision.", "Decision"),),
        errors=(errors.UriInvalid, errors.SchemeUnknown),
    ),
    Route(
        method="GET",
        path="/v1/events",
        name="events",
        handler=ops.events,
        summary="What happens from now on",
        is_admin=True,
        replies=(
            Reply(status=200, description="A line each.", content={NDJSON: ref("CacheEvent")}),
        ),
    ),
    Route(
        method="GET",
        path="/openapi.json",
        name="openapi",
        handler=ops.document,
        summary="This document",
        is_for_peers=True,
        replies=(
            Reply(status=200, description="OpenAPI 3.1.", content={_JSON: {"type": "object"}}),
        ),
    ),
    Route(
        method="GET",
        path="/livez",
        name="livez",
        handler=probes.livez,
        summary="Whether the daemon's event loop runs",
        is_for_peers=True,
        is_health=True,
        replies=(_json(200, "It runs.", "Alive"),),
    ),
    Route(
        method="GET",
        path="/readyz",
        name="readyz",
        handler=probes.readyz,
        summary="Whether the daemon takes asks, and why not",
        is_for_peers=True,
        is_health=True,
        replies=(
            _json(200, "Ready.", "Readiness"),
            _json(503, "Not ready, with reasons.", "Readiness"),
        ),
    ),
    Route(
        method="GET",
        path="/metrics",
        name="metrics",
        handler=probes.metrics,
        summary="Prometheus metrics",
        is_admin=True,
        is_health=True,
        replies=(Reply(status=200, description="The metrics.", content={"text/plain": TEXT}),),
    ),
)
