"""The model hubs that are known, and what each calls things. Pure, and light: the client reads it.

The variables are those of the hubs' own clients (huggingface_hub, modelscope_hub), which KServe's
storage initializer calls.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class HubNames:
    """``title`` is the hub's name; ``branch`` what is meant without a revision; ``endpoint`` its
    own, and the environment's variables, first one first, that say another, and whose token.
    ``cookie``: the one that some of its calls want the token in as well (modelscope_hub,
    _legacy_api.py)."""

    scheme: str
    title: str
    branch: str
    endpoint: str
    endpoint_variables: tuple[str, ...]
    token_variables: tuple[str, ...]
    cookie: str = ""


HUGGING_FACE: Final = HubNames(
    scheme="hf",
    title="Hugging Face",
    branch="main",
    endpoint="https://huggingface.co",
    endpoint_variables=("HF_ENDPOINT",),
    token_variables=("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"),
)
MODELSCOPE: Final = HubNames(
    scheme="modelscope",
    title="ModelScope",
    branch="master",
    endpoint="https://www.modelscope.cn",
    endpoint_variables=("MODELSCOPE_ENDPOINT", "MODELSCOPE_DOMAIN"),
    token_variables=("MODELSCOPE_API_TOKEN",),
    cookie="m_session_id",
)
HUBS: Final = {hub.scheme: hub for hub in (HUGGING_FACE, MODELSCOPE)}
"""By scheme."""
