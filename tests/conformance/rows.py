"""What a row says. Strings may hold ``$names``; ``World.names`` lists them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tests.conformance.web import Page
    from tests.conformance.world import Outcome, World

    Check = Callable[[World, Outcome], None]

BOTH = ("seaweedfs", "juicefs")
SEAWEED = ("seaweedfs",)

AS_KSERVE = {
    # What KServe's injector sets from a secret and its annotations (pkg/credentials/s3).
    "AWS_ACCESS_KEY_ID": "$key",
    "AWS_SECRET_ACCESS_KEY": "$secret",
    "S3_ENDPOINT": "$host",
    "AWS_ENDPOINT_URL": "$endpoint",
    "S3_USE_HTTPS": "0",
    "AWS_DEFAULT_REGION": "us-east-1",
}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table.

    ``pages`` are put on the web server, ``files`` below ``$folder``. ``objects`` go to each server
    in ``makes``, below a prefix of their own or into an ``own_bucket``: ``$bucket`` is where. With
    ``bucket`` they go into the one of that name, without ``makes`` at the server that notes how it
    is asked. A row expects either ``tree``, or that it ``fails`` with one of these exit codes,
    ``says`` something (in any case) on standard error, and leaves no destination behind.
    ``deviates``: what KServe's storage initializer does instead.
    """

    id: str
    case: str
    uri: str
    env: Mapping[str, str | None] = field(default_factory=dict)
    pages: Mapping[str, Page] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)
    objects: Mapping[str, bytes] | None = None
    bucket: str = ""
    own_bucket: bool = False
    makes: tuple[str, ...] = ()
    tree: Mapping[str, bytes] | None = None
    fails: tuple[int, ...] = ()
    says: str = ""
    deviates: str = ""
    check: Check | None = None

    def __post_init__(self) -> None:
        assert (self.tree is None) == bool(self.fails), self
        assert not self.fails or self.says, self
