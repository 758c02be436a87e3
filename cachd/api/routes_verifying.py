"""The routes that read what is cached against its checksums."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from cachd import errors
from cachd.api import verifying
from cachd.api.routing import Reply, Route
from cachd.api.shapes import ref
from cachd.api.stream import NDJSON

if TYPE_CHECKING:
    from cachd.api.routing import Handler

_JSON = "application/json"


def _route(
    path: str, name: str, handler: Handler, summary: str, *kinds: type[errors.CachdError]
) -> Route:
    return Route(
        method="POST",
        path=path,
        name=name,
        handler=handler,
        summary=summary,
        description="All revisions. What is bad is marked and given to nobody any more; with "
        "`repair: true` bad blocks are fetched again, and files that no manifest lists go to "
        "quarantine. With `Accept: application/x-ndjson` it streams progress.",
        is_admin=True,
        body={_JSON: ref("Verification")},
        is_body_required=False,
        replies=(
            Reply(
                status=200,
                description="What was found. `ok` is false where something is bad still.",
                content={_JSON: ref("Verified"), NDJSON: ref("VerifyEvent")},
            ),
        ),
        errors=(*kinds, errors.DiskError),
    )


VERIFYING_ROUTES: Final[tuple[Route, ...]] = (
    _route(
        "/v1/models/{key}/verify",
        "verify",
        verifying.verify,
        "Read a model again, against its checksums",
        errors.ModelUnknown,
    ),
    _route(
        "/v1/verify",
        "verify_all",
        verifying.verify_all,
        "Read everything again, against its checksums",
    ),
)
