"""A source for tests of the resolver process, added to its registry by ``tests.sources.child``."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from cachd.model import Auth, Plan, PlannedFile
from cachd.sources.base import Location

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cachd.credentials import SourceOptions
    from cachd.settings import SourcesSettings
    from cachd.sources.base import SourceContext, SourceRequest


class TestSource:
    """``test://how/argument``: answers at once, late, never, with a bang, or by dying."""

    __test__ = False
    schemes = ("test",)

    def locate(
        self,
        uri: str,
        options: SourceOptions,
        settings: SourcesSettings,
        environ: Mapping[str, str],
    ) -> Location:
        return Location(
            scheme="test", uri=uri, origin="test", is_default_origin=True, options=options
        )

    async def resolve(self, request: SourceRequest, context: SourceContext) -> Plan:
        how, _, argument = request.location.uri.removeprefix("test://").partition("/")
        if how == "sleep":
            Path("/", argument).touch()
            try:
                await asyncio.sleep(1000)
            except asyncio.CancelledError:
                Path("/", argument + ".cancelled").touch()
                raise
        elif how == "hang":
            time.sleep(1000)
        elif how == "die":
            os._exit(7)
        elif how == "die-once":
            mark = Path("/", argument)
            if not mark.exists():
                mark.touch()
                os._exit(7)
        elif how == "raise":
            raise RuntimeError(f"text with {request.credentials.secret_key}")
        elif how == "many":
            files = tuple(
                PlannedFile(path=f"{'n' * 200}/{n:07}", url=f"test:{'u' * 200}/{n}", size=1)
                for n in range(int(argument))
            )
            return Plan(revision="00", files=files)
        file = PlannedFile(path=str(os.getpid()), url="test:x", size=1)
        return Plan(revision="00", files=(file,), auth=Auth(secret_key="s"))

    async def probe(self, request: SourceRequest, plan_file: str, context: SourceContext) -> None:
        return None

    async def authorize(self, request: SourceRequest, context: SourceContext) -> Auth:
        return Auth(kind="headers", headers=(("a", "b"),))
