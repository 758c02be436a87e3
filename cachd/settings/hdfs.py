"""`hdfs://` and `webhdfs://`."""

from __future__ import annotations

from pathlib import Path

from cachd.settings.values import Section


class HdfsSettings(Section):
    """`hdfs://` and `webhdfs://`."""

    namenode: str | None = None
    """URL of the namenode's WebHDFS where a URI names none, such as http://namenode:9870."""

    ca_bundle: Path | None = None
    """PEM file trusted besides the system's authorities."""
