"""The routes by which administrators keep models, and choose their revisions."""

from __future__ import annotations

from typing import Final

from cachd import errors
from cachd.api import models
from cachd.api.routing import Reply, Route
from cachd.api.shapes import ref

_JSON = "application/json"
_PIN = {_JSON: ref("Pin")}
_PROMOTION = {_JSON: ref("Promotion")}

KEEPING_ROUTES: Final[tuple[Route, ...]] = (
    Route(
        method="PUT",
        path="/v1/models/{key}/pin",
        name="pin",
        handler=models.pin,
        summary="Never evict a model",
        is_admin=True,
        verb="pin",
        replies=(Reply(status=200, description="It is pinned.", content=_PIN),),
        errors=(errors.ModelUnknown,),
    ),
    Route(
        method="DELETE",
        path="/v1/models/{key}/pin",
        name="unpin",
        handler=models.unpin,
        summary="Let a model be evicted again",
        is_admin=True,
        verb="pin",
        replies=(Reply(status=200, description="It is not pinned.", content=_PIN),),
        errors=(errors.ModelUnknown,),
    ),
    Route(
        method="POST",
        path="/v1/models/{key}/promote",
        name="promote",
        handler=models.promote,
        summary="Say which revision is given",
        description="The revision named, or the one that waits (`update`). Pods keep what they "
        "have. Going back to an older one refuses what was known by then: no rule takes that up "
        "again.",
        is_admin=True,
        body={_JSON: ref("PromotionWish")},
        is_body_required=False,
        replies=(
            Reply(status=200, description="It is current.", content=_PROMOTION),
            Reply(
                status=202,
                description="It is approved, and becomes current when it is here.",
                content=_PROMOTION,
            ),
        ),
        errors=(errors.ModelUnknown, errors.ModelCorrupt, errors.DiskError),
    ),
)
