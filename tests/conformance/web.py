"""A web server whose answers the rows write: types, statuses, redirects, and headers it wants."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from string import Template
from typing import TYPE_CHECKING

from tests.servers.loopback import OCTETS, Handler, Server

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping


@dataclass(frozen=True, kw_only=True)
class Page:
    """``wants``: headers without which the answer is 401. ``location`` makes it a redirect."""

    body: bytes = b""
    type: str = OCTETS
    status: int = 200
    location: str = ""
    wants: Mapping[str, str] = field(default_factory=dict)

    def at(self, names: Mapping[str, str]) -> Page:
        """With the ``$names`` of its location replaced."""
        return replace(self, location=Template(self.location).substitute(names))


@dataclass(frozen=True)
class Seen:
    method: str
    target: str
    headers: Mapping[str, str]


class Web(Server):
    """``pages`` by path; a page's path may end in its query, else the query doesn't matter."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.pages: dict[str, Page] = {}
        self.seen: list[Seen] = []
        web = self

        class WebHandler(Handler):
            def do_GET(self) -> None:
                web._answer(self)

            do_HEAD = do_GET

        super().__init__(WebHandler, tls)

    def _answer(self, handler: Handler) -> None:
        self.seen.append(
            Seen(handler.command, handler.path, {k.lower(): v for k, v in handler.headers.items()})
        )
        page = self.pages.get(handler.path.partition("?")[0])
        if page is None:
            handler.send(404)
        elif any(handler.headers.get(name) != value for name, value in page.wants.items()):
            handler.send(401)
        elif page.location:
            handler.send(page.status, Location=page.location)
        elif page.status != 200:
            handler.send(page.status, page.body, Content_Type=page.type)
        else:
            handler.send_file(page.body, page.type)
