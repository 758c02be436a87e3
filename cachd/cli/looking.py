"""``cachd ls``, ``show``, ``version``."""

from __future__ import annotations

import contextlib
import shutil
import sys
from typing import TYPE_CHECKING, Any

from cachd import __version__
from cachd.cli import render
from cachd.cli.choosing import admin_client, find_key
from cachd.cli.client import path_of
from cachd.cli.output import print_json
from cachd.errors import CachdError, DaemonUnreachable, Forbidden
from cachd.metadata import METADATA

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from cachd.cli.client import Client

_RIGHT = frozenset({"FILES", "SIZE", "ON DISK", "LEASES", "BLOCKS"})


def ls(arguments: argparse.Namespace) -> int:
    client = admin_client(arguments, needed=False)
    answer = client.call("GET", "/v1/models")
    if arguments.json:
        print_json(answer)
        return 0
    models = answer.get("models", [])
    print(models_table(models, width=terminal_width()))
    store = answer.get("store") or {}
    print(f"\n{usage_line(store, len(models))}")
    if store.get("prefetch_failed"):
        print_failed_prefetches(client)
    return 0


def print_failed_prefetches(client: Client) -> None:
    """Which models that should be here can't be had, and why; administrators alone may know."""
    with contextlib.suppress(Forbidden):
        for row in client.call("GET", "/v1/prefetch").get("prefetch") or []:
            if row["state"] == "failed":
                print(f"prefetch of {row['uri']} failed ({row['code']}): {row['message']}")


def show(arguments: argparse.Namespace) -> int:
    client = admin_client(arguments, needed=False)
    model = client.call("GET", path_of("models", find_key(client, arguments.model)))
    if arguments.json:
        print_json(model)
        return 0
    print(model_facts(model))
    told = metadata_facts(model.get("metadata") or {})
    if told:
        print(f"\nMETADATA\n{told}")
    files = model.get("manifest_files") or []
    width = terminal_width()
    if files:
        rows = [
            (
                f["path"],
                render.size(f["size"]),
                f.get("blocks", "-"),
                # Whoever reads a pipe wants whole values.
                ", ".join(
                    f"{name}:{value[:12] if width else value}"
                    for name, value in f["digests"].items()
                )
                or "-",
            )
            for f in files
        ]
        header = ("FILE", "SIZE", "BLOCKS", "DIGEST")
        print()
        print(render.table(header, rows, right=_RIGHT, width=width, flexible="FILE"))
    leases = model.get("lease_list") or []
    if leases:
        # Without their ids: an id is a pass to read.
        held = [
            (
                lease.get("holder") or "-",
                str(lease.get("revision", ""))[:12],
                "pod" if lease.get("until") == "pod" else render.duration(lease.get("expires_in")),
            )
            for lease in leases
        ]
        print()
        print(render.table(("LEASED BY", "REVISION", "ENDS IN"), held))
    return 0


def version(arguments: argparse.Namespace) -> int:
    daemon: str | None = None
    problem = ""
    try:
        document = admin_client(arguments, needed=False).call("GET", "/openapi.json", timeout=5.0)
        daemon = (document.get("info") or {}).get("version")
    except DaemonUnreachable as error:
        problem = error.message
    except CachdError as error:
        problem = f"the daemon answers: {error.message}"
    if arguments.json:
        print_json({"client": __version__, "daemon": daemon})
    else:
        print(f"cachd {__version__}")
        print(f"daemon {daemon or '- (' + problem + ')'}")
    return 0


def models_table(models: Sequence[dict[str, Any]], width: int | None = None) -> str:
    """The models as a table, the last used first."""
    header = ("KEY", "URI", "STATE", "FILES", "SIZE", "LEASES", "USED", "NAMESPACE", "")
    rows = [
        (
            model["key"],
            model["uri"],
            _state(model),
            model["files"],
            render.size(model["bytes"]),
            model.get("leases") or "-",
            render.ago(model.get("last_used")),
            model.get("namespace") or "-",
            marks(model),
        )
        for model in sorted(models, key=lambda m: str(m.get("last_used") or "~"), reverse=True)
    ]
    return render.table(header, rows, right=_RIGHT, width=width, flexible="URI")


def marks(model: dict[str, Any]) -> str:
    """What else a person should know, in words."""
    words = []
    if model.get("pinned"):
        words.append("pinned")
    if model.get("credentialed"):
        words.append("private")
    if model.get("validated") is False and model.get("state") == "ready":
        words.append("unvalidated")
    if model.get("allow") or model.get("ignore"):
        words.append("patterns")
    if model.get("update"):
        words.append(f"update {model['update']['state']}")
    return ",".join(words)


def usage_line(store: dict[str, Any], models: int) -> str:
    """The store's numbers in one line."""
    used, quota = store.get("allocated"), store.get("quota")
    # A quota beyond the volume says nothing of what fits.
    quota = min(quota, store.get("volume_size") or quota) if quota else quota
    text = f"{render.plural(models, 'model')}, {render.size(used)}"
    if quota:
        text += f" of {render.size(quota)} ({100 * (used or 0) / quota:.0f} %)"
    if store.get("reserved"):
        text += f", {render.size(store['reserved'])} reserved"
    if store.get("free") is not None:
        text += f", {render.size(store['free'])} free on the volume"
        floor = floor_note(store)
        text += f"; floor: {floor}" if floor else ""
    if store.get("prefetch_wanted"):
        text += f"; prefetched: {store.get('prefetch_ready')} of {store['prefetch_wanted']}"
    if store.get("degraded"):
        text += f"; degraded: {', '.join(map(str, store['degraded']))}"
    return text


def floor_note(space: dict[str, Any]) -> str:
    """``45.4 GiB left to others on the volume`` where that binds rather than the quota; else empty.
    ``space`` is the store's usage or the answer of a plan."""
    floor, free, quota = (space.get(name) for name in ("free_floor", "free", "quota"))
    if not floor or free is None or quota is None:
        return ""
    if free - floor >= quota - (space.get("allocated") or 0):
        return ""
    return f"{render.size(floor)} left to others on the volume"


def model_facts(model: dict[str, Any]) -> str:
    """One model as ``name: value`` lines."""
    update = model.get("update") or {}
    shown = (model.get("revision"), update.get("revision"))
    others = [r for r in model.get("revisions") or [] if r not in shown]
    return render.facts(
        [
            ("uri", model.get("uri")),
            ("key", model.get("key")),
            ("origin", model.get("origin")),
            ("allow", ", ".join(model.get("allow") or [])),
            ("ignore", ", ".join(model.get("ignore") or [])),
            ("state", _state(model)),
            ("revision", model.get("revision")),
            ("promoted", promoted_line(model)),
            ("update", update_line(model)),
            ("others", ", ".join(others)),
            ("files", model.get("files")),
            ("size", render.size(model.get("bytes"))),
            ("on disk", render.size(model.get("allocated"))),
            ("verified", verified_line(model)),
            ("model digest", model.get("model_digest")),
            ("last used", render.ago(model.get("last_used"))),
            ("checked", _seconds(model.get("checked_ago"), "{} ago")),
            ("refreshed", _seconds(model.get("refresh_in"), "in {}")),
            ("leases", model.get("leases")),
            ("namespace", model.get("namespace")),
            ("marks", marks(model)),
        ]
    )


def metadata_facts(metadata: dict[str, str]) -> str:
    """What is known of the model besides its bytes: the names that cachd gives, then the others."""
    known = [name for name in METADATA if name in metadata]
    others = sorted(name for name in metadata if name not in METADATA)
    # A description's line breaks would tear the lines apart.
    return render.facts([(name, " ".join(metadata[name].split())) for name in (*known, *others)])


def update_line(model: dict[str, Any]) -> str:
    """``REVISION, ready; seen 3m ago; is given when promoted (cachd promote KEY)``."""
    update = model.get("update")
    if not update:
        return ""
    when = {
        "manual": f"when promoted: cachd promote {model.get('key')}",
        "schedule": f"in {', '.join(update['window'])}",
        "on_ready": "as soon as it is here",
    }[update["move"]]
    if update["approved"]:
        when = "as soon as it is here (approved)"
    state = "ready" if update["state"] == "ready" else "not fetched"
    return f"{update['revision']}, {state}; seen {render.ago(update['seen'])}; given {when}"


def promoted_line(model: dict[str, Any]) -> str:
    """``2h ago by admin, uid 0; refused since: REVISION``."""
    promoted = model.get("promoted")
    if not promoted:
        return ""
    text = f"{render.ago(promoted['at'])} by {promoted['by']}"
    refused = ", ".join(promoted["refused"])
    return text + (f"; no rule takes up again: {refused}" if refused else "")


def verified_line(model: dict[str, Any]) -> str:
    """``2 md5, 1 sha256; 3 files without a digest``."""
    counts = (model.get("verified") or {}).items()
    text = ", ".join(f"{count} {algorithm}" for algorithm, count in counts)
    unverified = model.get("unverified") or 0
    without = f"{render.plural(unverified, 'file')} without a digest" if unverified else ""
    return "; ".join(part for part in (text, without) if part)


def terminal_width() -> int | None:
    """Columns of the terminal that stdout is; None for a pipe, whose reader wants whole values."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def _seconds(value: float | None, words: str) -> str:
    return "" if value is None else words.format(render.duration(value))


def _state(model: dict[str, Any]) -> str:
    progress = model.get("progress")
    state = "corrupt" if model.get("corrupt") else str(model.get("state", "-"))
    if not progress:
        return state
    done, total = progress.get("bytes") or 0, progress.get("total")
    return f"{state} {100 * done / total:.0f}%" if total else f"{state} {render.size(done)}"
