"""The API server of the cluster that the node is in."""

from __future__ import annotations

import re
from pathlib import Path

from pydantic import field_validator, model_validator

from cachd.settings.values import Seconds, Section, is_server_url

_LABEL_MOST = 63
_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


class NodeLabelRule(Section):
    """One entry of `kubernetes.node_labels`."""

    match: str
    """Pattern (`*`, `?`) over the whole URI."""

    label: str
    """`cachd.dev/model-NAME`, of at most 63 characters after the slash."""

    @field_validator("label")
    @classmethod
    def _label_is_ours(cls, label: str) -> str:
        prefix, slash, name = label.partition("/")
        is_name = re.fullmatch(r"model-[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?", name)
        if prefix != "cachd.dev" or not slash or not is_name or len(name) > _LABEL_MOST:
            raise ValueError("a label looks like cachd.dev/model-llama-3")
        return label


class KubernetesSettings(Section):
    """The API server. Off, cachd works without one."""

    enabled: bool = False
    """Talk to the API server: identities by service account, leases that live as long as pods."""

    server: str | None = None
    """URL of the API server. None: `KUBERNETES_SERVICE_HOST` and `KUBERNETES_SERVICE_PORT`."""

    token_file: Path = _ACCOUNT / "token"
    """The daemon's own token, read again for every call."""

    ca_file: Path = _ACCOUNT / "ca.crt"
    """PEM file with the API server's authority."""

    node_name: str | None = None
    """This node. None: the environment's `NODE_NAME`."""

    audience: str = "cachd"
    """What the tokens of callers must be meant for (`audience` of a projected token)."""

    identity_ttl: Seconds = 60.0
    """Seconds that the API server's yes to a caller's token is remembered, never beyond the token's
    own end. A pod that is deleted keeps its identity for so long."""

    identity_grace: Seconds = 600.0
    """Seconds more, while the API server can't be asked."""

    events: bool = False
    """Tell of models in events: on the pod that asked, where its token says which; else on the
    node. `ModelReady`, `ModelFailed` (code and hint), `ModelEvicted` (for want of space),
    `ModelUpdateReady` and `ModelPromoted` (a newer revision waits; is given from now on)."""

    node_labels: tuple[NodeLabelRule, ...] = ()
    """Labels of this node for chosen models: a list of `match` and `label`
    (`cachd.dev/model-llama`). The value is `ready` while a model that matches is here, `fetching`
    while one is on its way; else there is no such label. Other labels that begin with
    `cachd.dev/model-` are taken away. In the environment: JSON."""

    @field_validator("server")
    @classmethod
    def _server_is_a_url(cls, server: str | None) -> str | None:
        if server and not is_server_url(server):
            raise ValueError("the API server looks like https://10.0.0.1:443")
        return server

    @model_validator(mode="after")
    def _is_whole(self) -> KubernetesSettings:
        if not self.enabled and (self.events or self.node_labels):
            raise ValueError("events and node_labels need kubernetes.enabled")
        return self
