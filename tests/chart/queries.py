"""The expressions of alerts and dashboard, as they lie in the chart."""

from __future__ import annotations

import json
from typing import Any

import yaml

from tests.chart.rendering import CHART

ALERTS = CHART / "files/alerts.yaml"
DASHBOARD = CHART / "files/dashboard.json"


def alert_rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load(ALERTS.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def panel_queries() -> list[str]:
    """Every panel's, with Grafana's variables as they are."""
    return [
        target["expr"]
        for panel in json.loads(DASHBOARD.read_text())["panels"]
        for target in panel.get("targets", [])
    ]
