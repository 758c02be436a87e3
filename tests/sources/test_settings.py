"""Settings of sources that can't be meant are refused at the start, by the setting's name."""

from __future__ import annotations

import pytest

from cachd.errors import ConfigInvalid
from cachd.settings import load_settings


@pytest.mark.parametrize(
    "name", ["S3_ENDPOINT", "GS_ENDPOINT", "AZURE_ENDPOINT", "AZURE_FILES_ENDPOINT"]
)
def test_an_endpoint_says_its_scheme(name: str) -> None:
    variable = f"CACHD_SOURCES_{name}"
    assert load_settings(None, {variable: " HTTP://store:9000 "})
    with pytest.raises(ConfigInvalid, match="write http:// or https:// before the host"):
        load_settings(None, {variable: "store:9000"})


def test_a_number_of_checksums_is_none_below_nought() -> None:
    assert load_settings(None, {"CACHD_SOURCES_HDFS_CHECKSUMS": "0"}).sources.hdfs.checksums == 0
    with pytest.raises(ConfigInvalid, match="checksums"):
        load_settings(None, {"CACHD_SOURCES_HDFS_CHECKSUMS": "-5"})
