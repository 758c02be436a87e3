"""`hdfs://` and `webhdfs://`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from cachd.settings.values import Section


class HdfsSettings(Section):
    """`hdfs://` and `webhdfs://`."""

    namenode: str | None = None
    """URL of the namenode's WebHDFS where a URI names none, such as http://namenode:9870; several
    with `;` between them, of which the active one is found."""

    user: str | None = None
    """The daemon's own name there (`user.name`); proves nothing."""

    token_file: Path | None = None
    """File with the daemon's own delegation token, in its URL form. Read at every call."""

    checksums: Annotated[int, Field(ge=0)] = 100
    """Files of a model, the largest first, whose checksum is asked for. Of use where the cluster
    has `dfs.checksum.combine.mode: COMPOSITE_CRC`; the first answer tells. 0: ask for none."""

    ca_bundle: Path | None = None
    """PEM file trusted besides the system's authorities."""
