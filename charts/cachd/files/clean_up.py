import shutil
import sys
from pathlib import Path

root, *socket_directories = map(Path, sys.argv[1:])
layout = root / "layout.json"
# Only what is a cache: a wrong path must not cost anybody a disk.
if layout.exists():
    for entry in root.iterdir():
        if entry.name in (".volume-id", "lost+found") or entry == layout:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
    layout.unlink()
for directory in socket_directories:
    for name in ("cachd.sock", "files.sock", "admin.sock"):
        (directory / name).unlink(missing_ok=True)
