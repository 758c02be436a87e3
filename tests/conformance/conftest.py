from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.conformance import table_gcs, table_oci, table_registry
from tests.conformance.table_git import start_git
from tests.conformance.table_hf import REPOSITORIES, SECOND, TOKEN
from tests.conformance.table_http import WEIGHTS
from tests.conformance.web import Page
from tests.conformance.world import World, make_world
from tests.servers.modelregistry import ModelRegistry

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.servers.certificates import Certificates
    from tests.servers.gcs import FakeGcs
    from tests.servers.nginx import Nginx
    from tests.servers.registry import Registry
    from tests.servers.s3 import S3Server


@pytest.fixture(scope="package")
def world(
    tmp_path_factory: pytest.TempPathFactory,
    certificates: Certificates,
    nginx: Nginx,
    seaweed: S3Server,
    juicefs: S3Server,
    gcs: FakeGcs,
    registry: Registry,
    private_registry: Registry,
) -> Iterator[World]:
    """One daemon, and every server that a row may ask for."""
    folder = tmp_path_factory.mktemp("conformance")
    for place in ("C38", "C38s"):
        (nginx.root / place).mkdir(exist_ok=True)
        (nginx.root / place / "m.bin").write_bytes(WEIGHTS)
    gcs.private.add(table_gcs.PRIVATE)
    (folder / "google-key.json").write_text(gcs.service_account())
    makes = {server.name: server for server in (seaweed, juicefs, gcs)}
    with make_world(folder, certificates, nginx, makes) as made:
        made.objects.buckets["refused"] = None
        for place in ("C38", "C38m", "C38n", "C18r"):
            made.public_web.pages[f"/{place}/m.bin"] = Page(body=WEIGHTS)
        for name, files in REPOSITORIES.items():
            made.hub.add(name, files)
        made.hub.add("org/private", REPOSITORIES["org/m"], private=True, readers={TOKEN})
        made.hub.add("org/gated", REPOSITORIES["org/m"], gated=True, readers={TOKEN})
        made.hub.repositories["org/m"].commit(SECOND, "v2")
        made.more |= table_oci.push(folder, registry, private_registry)
        git = start_git(folder / "git")
        models = ModelRegistry()
        made.more |= {"git": git.url, "git_host": git.host}
        made.more |= table_registry.register(models, seaweed)
        try:
            yield made
        finally:
            models.close()
            git.stop()
