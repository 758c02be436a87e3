"""Nothing depends on a wall clock that goes forward."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.filesystems.conftest import names, pull
from tests.filesystems.volumes import MIB
from tests.process.origin import CountingOrigin
from tests.servers import require


@pytest.mark.slow
@pytest.mark.parametrize("jump", ["-1y", "+1y"])
def test_the_wall_clock_jumps_by_a_year(serve, origin: CountingOrigin, tmp_path: Path, jump):
    """libfaketime moves the daemon's wall clock while it runs; its monotonic clock stays."""
    library = _faketime()
    stamp = tmp_path / "faketime"
    stamp.write_text("+0\n")
    daemon = serve(
        tmp_path / "root",
        environ={
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(stamp),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        },
        STORE_QUOTA="30MiB",
        STORE_PARTIAL_TTL="86400",
        FRESHNESS_INTERVAL="3600",
    )
    pull(daemon, origin, "leased", 8 * MIB, lease={"holder": "pod", "ttl": 600})
    assert pull(daemon, origin, "b", 8 * MIB)["status"] == 200
    stamp.write_text(f"{jump}\n")
    assert pull(daemon, origin, "b")["result"] == "hit"
    assert pull(daemon, origin, "c", 8 * MIB)["status"] == 200
    assert pull(daemon, origin, "b")["result"] == "hit"
    # The order of use is that of the calls, whatever the clock says: "c" is the oldest.
    assert pull(daemon, origin, "d", 8 * MIB)["status"] == 200
    assert names(daemon) == {"leased", "b", "d"}
    assert daemon.terminate() == 0
    stamp.write_text("+0\n")
    daemon.start()
    assert names(daemon) == {"leased", "b", "d"}
    assert pull(daemon, origin, "b")["result"] == "hit"
    assert pull(daemon, origin, "e", 8 * MIB)["status"] == 200
    assert names(daemon) == {"leased", "b", "e"}


def _faketime() -> Path:
    places = list(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
    if not places:
        require.missing("libfaketime (Debian: faketime)")
    return places[0]
