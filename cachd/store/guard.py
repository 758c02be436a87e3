"""Is this the disk that was meant? Asked before anything is written, so that an unmounted NVMe
doesn't fill the system's disk."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from cachd.errors import VolumeUnexpected
from cachd.store.linux import filesystem_uuid
from cachd.store.mounts import mount_of, nearest_existing, read_mounts

if TYPE_CHECKING:
    from cachd.store.mounts import Mount

VOLUME_ID_FILE = ".volume-id"
_BY_UUID = Path("/dev/disk/by-uuid")


def check_volume(root: Path, expected_mount: Path | None, expected_volume_id: str | None) -> None:
    """Raises VolumeUnexpected unless ``root`` lies where the settings say. Blocking; writes
    nothing."""
    if expected_mount is None and expected_volume_id is None:
        return
    existing = nearest_existing(root)
    mounts = read_mounts()
    if expected_mount is not None:
        _check_mount(root, existing, expected_mount, mounts)
    if expected_volume_id is not None:
        _check_volume_id(root, existing, expected_volume_id, mount_of(existing, mounts))


def _check_mount(root: Path, existing: Path, expected: Path, mounts: list[Mount]) -> None:
    hint = "mount the disk, or correct store.expected_mount"
    point = expected.resolve()
    if not root.resolve().is_relative_to(point):
        raise VolumeUnexpected(f"the root {root} is not below {expected}", hint=hint)
    if not (os.path.ismount(point) or any(mount.point == point for mount in mounts)):
        raise VolumeUnexpected(f"{expected} is no mount point: nothing is mounted there", hint=hint)
    if existing.stat().st_dev != point.stat().st_dev:
        held = mount_of(existing, mounts)
        raise VolumeUnexpected(
            f"the root {root} lies on another file system"
            f"{f' (mounted at {held.point})' if held else ''} than {expected}",
            hint=hint,
        )


def _check_volume_id(root: Path, existing: Path, expected: str, mount: Mount | None) -> None:
    found = _volume_ids(existing, mount)
    if expected.strip().lower() not in {identity.lower() for identity in found}:
        raise VolumeUnexpected(
            f"the volume of {root} is not {expected}"
            + (f": it is {' or '.join(found)}" if found else ": it has no id that can be read"),
            hint="mount the right disk, write the id into a file .volume-id at its mount point, "
            "or correct store.expected_volume_id",
        )


def _volume_ids(existing: Path, mount: Mount | None) -> list[str]:
    found = []
    fd = os.open(existing, os.O_RDONLY | os.O_DIRECTORY)
    try:
        identity = filesystem_uuid(fd)
        device = os.fstat(fd).st_dev
    finally:
        os.close(fd)
    if identity:
        found.append(identity)
    if _BY_UUID.is_dir():
        for link in _BY_UUID.iterdir():
            try:
                is_ours = link.stat().st_rdev == device or (
                    mount is not None and str(link.resolve()) == mount.source
                )
            except OSError:
                continue
            if is_ours and link.name not in found:
                found.append(link.name)
    if mount is not None:
        try:
            text = (mount.point / VOLUME_ID_FILE).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError):
            text = ""
        if text:
            found.append(text)
    return found
