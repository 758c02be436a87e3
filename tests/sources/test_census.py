"""What one model may hold."""

from __future__ import annotations

import pytest

from cachd.errors import ContentError
from cachd.sources import census
from cachd.sources.census import Census
from tests.servers.origin import serve
from tests.sources.asking import resolve
from tests.sources.test_s3_stub import bucket_of


def test_names_are_counted_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(census, "MAX_NAMES", 10)
    counting = Census("s3://b/m")
    counting.count("ä" * 5)
    with pytest.raises(ContentError, match="s3://b/m holds files whose names are longer"):
        counting.count("x")


async def test_both_listings_are_counted(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    monkeypatch.setattr(census, "MAX_NAMES", 10)
    async with serve(bucket_of({"m/abcd": 1, "m/efgh": 1})) as origin:
        assert len((await resolve("s3://bucket/m", endpoint=origin.url)).files) == 2
    async with serve(bucket_of({"m/abcdef": 1, "m/efgh1": 1})) as origin:
        with pytest.raises(ContentError, match="names"):
            await resolve("s3://bucket/m", endpoint=origin.url)
