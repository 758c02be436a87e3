import os
import shutil
import sys

root, *socket_directories = sys.argv[1:]
# Only what is a cache: a wrong path must not cost anybody a disk.
if os.path.exists(os.path.join(root, "layout.json")):
    for entry in os.scandir(root):
        if entry.name in (".volume-id", "lost+found", "layout.json"):
            continue
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path)
        else:
            os.unlink(entry.path)
    os.unlink(os.path.join(root, "layout.json"))
for directory in socket_directories:
    for entry in os.scandir(directory):
        if entry.name in ("cachd.sock", "files.sock", "admin.sock"):
            os.unlink(entry.path)
