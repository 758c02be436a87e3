"""The routes of pods' views."""

from __future__ import annotations

from typing import Final

from cachd import errors
from cachd.api import views
from cachd.api.routing import Reply, Route
from cachd.api.shapes import ref

VIEW_ROUTES: Final[tuple[Route, ...]] = (
    Route(
        method="GET",
        path="/v1/views",
        name="views",
        handler=views.list_views,
        summary="What pods have mounted",
        description="Administrators are told of all views, a pod of its own, if it proves who it "
        "is.",
        replies=(
            Reply(
                status=200,
                description="The views.",
                content={"application/json": ref("Views")},
            ),
        ),
    ),
    Route(
        method="DELETE",
        path="/v1/views/{pod}",
        name="remove_views",
        handler=views.remove,
        summary="Take a pod's views away",
        replies=(
            Reply(
                status=200,
                description="They are gone.",
                content={"application/json": ref("ViewsRemoved")},
            ),
        ),
        errors=(errors.InvalidError, errors.Forbidden, errors.DiskError),
    ),
)
