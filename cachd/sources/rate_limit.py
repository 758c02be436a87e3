"""``RateLimit`` of an answer: how long until more may be asked. Pure.

The header is IETF draft-ietf-httpapi-ratelimit-headers-09's: ``"api";r=0;t=55``, of which ``r`` is
what is left and ``t`` the seconds until there is more. The Hugging Face Hub sends it with every
answer (huggingface.co/docs/hub/rate-limits), and no Retry-After.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_LEFT = re.compile(r";\s*r\s*=\s*(\d{1,15})(?=\s*(?:;|,|$))", re.ASCII)
_SECONDS = re.compile(r";\s*t\s*=\s*(\d{1,9})(?=\s*(?:;|,|$))", re.ASCII)


def seconds_to_wait(headers: Mapping[str, str]) -> float | None:
    """The longest of the windows in which nothing is left; None where something is, or nobody says.
    ``headers`` have names in lower case, or tell no case apart."""
    longest: float | None = None
    for window in (headers.get("ratelimit") or "").split(","):
        left, seconds = _LEFT.search(window), _SECONDS.search(window)
        if left and seconds and int(left[1]) == 0:
            longest = max(longest or 0.0, float(seconds[1]))
    return longest
