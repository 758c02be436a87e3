"""Artifacts behind an MLflow server's proxy: ``mlflow-artifacts://host[:port]/path``.

Registries lead here; the server is that of ``options.registry``, and takes the pass that it took
for the name. Its REST API: ``GET …/mlflow-artifacts/artifacts?path=`` lists a directory, and
``GET …/mlflow-artifacts/artifacts/PATH`` is a file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote, urlsplit

from cachd.errors import NotFound, PathUnsafe, UriInvalid
from cachd.model import Auth, Plan, PlannedFile
from cachd.names import check_tree
from cachd.registries.server import open_server
from cachd.registries.source import normalise_url
from cachd.sources.archives import unpack_of
from cachd.sources.base import Location
from cachd.sources.census import Census
from cachd.sources.patterns import is_wanted
from cachd.sources.revisions import hash_state

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from contextlib import AbstractAsyncContextManager

    from cachd.credentials import SourceOptions
    from cachd.registries.server import RegistryServer
    from cachd.settings import SourcesSettings
    from cachd.sources.base import SourceContext, SourceRequest

_ARTIFACTS = "/api/2.0/mlflow-artifacts/artifacts"


class MlflowArtifacts:
    """The ``Source``. The server tells sizes, and nothing of a file's state."""

    schemes = ("mlflow-artifacts",)

    def locate(
        self,
        uri: str,
        options: SourceOptions,
        settings: SourcesSettings,
        environ: Mapping[str, str],
    ) -> Location:
        """Raises UriInvalid without ``options.registry``."""
        base = normalise_url(options.registry, "options.registry") if options.registry else ""
        host, _, path = uri.partition("://")[2].partition("/")
        if not base or urlsplit(base).netloc.lower() != host.lower():
            raise UriInvalid(
                "an mlflow-artifacts:// URI belongs to a model of an MLflow server",
                field="uri",
                hint="ask for mlflow://name/version, or models:/name/version",
            )
        path = path.strip("/")
        if not path or any(part in {"", ".", ".."} for part in unquote(path).split("/")):
            raise UriInvalid("the artifact's path isn't valid", field="uri")
        return Location(
            scheme="mlflow-artifacts",
            uri=f"mlflow-artifacts://{host.lower()}/{path}",
            origin=f"mlflow-artifacts+{base}",
            is_default_origin=False,
            options=options,
        )

    async def resolve(self, request: SourceRequest, context: SourceContext) -> Plan:
        """Every file below the path, by one call a directory."""
        root = _path_of(request)
        async with _server(request, context) as server:
            rows = [row async for row in _walk(server, root)]
            chosen = [
                (path, size)
                for path, size in sorted(rows)
                if is_wanted(path, request.allow, request.ignore)
            ]
            if not chosen:
                raise NotFound(
                    f"No model found in {request.location.uri}",
                    hint="it holds no files, or none that passes the patterns",
                )
            check_tree(path for path, _ in chosen)
            files = tuple(
                # Behind the proxy a server has the whole file fetched for each range of it, and
                # its ETags may be those of that copy.
                PlannedFile(path=path, url=_url(server, f"{root}/{path}"), size=size, ranges=False)
                for path, size in chosen
            )
            return Plan(
                revision=hash_state(chosen),
                files=files,
                auth=server.auth(),
                connect=server.connect,
                unpack=unpack_of(files),
                is_validated=False,
                is_credentialed=server.is_credentialed,
                needs_recheck=True,
            )

    async def probe(self, request: SourceRequest, plan_file: str, context: SourceContext) -> None:
        """The file's first byte."""
        async with _server(request, context) as server:
            await server.touch(f"{_ARTIFACTS}/{quote(f'{_path_of(request)}/{plan_file}')}")

    async def authorize(self, request: SourceRequest, context: SourceContext) -> Auth:
        async with _server(request, context) as server:
            return server.auth()


def _server(
    request: SourceRequest, context: SourceContext
) -> AbstractAsyncContextManager[RegistryServer]:
    base = request.location.origin.partition("+")[2]
    rules = context.settings.registries
    name = next((r.name for r in rules if r.kind == "mlflow" and r.url == base), "")
    return open_server(request, context, "mlflow", (name, base))


def _path_of(request: SourceRequest) -> str:
    return unquote(request.location.uri.partition("://")[2].partition("/")[2])


def _url(server: RegistryServer, path: str) -> str:
    return f"{server.url}{_ARTIFACTS}/{quote(path)}"


async def _walk(server: RegistryServer, root: str) -> AsyncIterator[tuple[str, int]]:
    """(path below ``root``, size) of each file."""
    census = Census(f"{server.url}{_ARTIFACTS}/{root}")
    pending = [""]
    while pending:
        below = pending.pop()
        listed = await server.get(_ARTIFACTS, path=f"{root}/{below}" if below else root)
        for row in server.rows(listed, "files"):
            name = str(row.get("path") or "")
            # The server gives paths below the directory that was asked for.
            if name in {"", ".", ".."} or "/" in name:
                raise PathUnsafe(f"the {server.who} lists a name that can't be a file's: {name!r}")
            path = f"{below}/{name}" if below else name
            census.count(path)
            if row.get("is_dir"):
                pending.append(path)
            else:
                yield path, _size(row, server)


def _size(row: dict[str, Any], server: RegistryServer) -> int:
    text = str(row.get("file_size") or 0)
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise server.nonsense("a file without a size")
    return int(text)
