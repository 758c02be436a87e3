"""What a pull did, in a line or two."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cachd.cli import render

if TYPE_CHECKING:
    from cachd.cli.materialise import Materialised


def how_it_went(
    answer: dict[str, Any], destination: str | None, done: Materialised | None, *, keep: bool
) -> str:
    """A line or two for people."""
    what = f"{render.plural(int(answer['files']), 'file')}, {render.size(answer['bytes'])}"
    lines = []
    if done is not None:
        speed = f" ({render.rate(done.bytes / done.seconds)})" if done.seconds > 0.05 else ""
        verified = {True: ", verified", False: ", not verified", None: ""}[done.verified]
        lines.append(
            f"{answer['uri']} → {destination}: {what}; {_how_fetched(answer)}; "
            f"{done.way} in {render.duration(done.seconds)}{speed}{verified}"
        )
    else:
        lines.append(f"{answer['uri']}: {what}; {_how_fetched(answer)}")
        lines.append(
            render.facts(
                [
                    ("path", answer["path"]),
                    ("key", answer["key"]),
                    ("revision", answer["revision"]),
                ]
            )
        )
    lease = answer.get("lease")
    if keep and lease:
        lines.append(f"lease {lease['id']} for {lease['holder']}, {render.duration(lease['ttl'])}")
    if answer.get("validated") is False:
        lines.append("the origin gives nothing that would show a change (unvalidated)")
    return render.printable_lines("\n".join(lines))


def _how_fetched(answer: dict[str, Any]) -> str:
    result = str(answer.get("result"))
    if answer.get("fallback"):
        return "fetched here, without the node's cache"
    if result == "miss":
        seconds = (answer.get("timings") or {}).get("fetch")
        fetched = answer.get("fetched_bytes") or 0
        took = f" in {render.duration(seconds)}" if seconds else ""
        return f"fetched {render.size(fetched)}{took}"
    return {
        "hit": "cached",
        "stale": "cached (stale: the source can't be reached)",
        "local": "local",
    }.get(result, result)
