"""Every metric of the dashboard is one that is served: ours by `trackers.prometheus`, the others by Ray's nodes.

Given deploy/grafana.json, the table of metric keys, and Ray's own table; starts nothing.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from raylign.jobs.run.metrics import METRICS
from raylign.jobs.run.trackers import prometheus_name

FILE = Path(__file__).parents[2] / "deploy" / "grafana.json"


@pytest.fixture(scope="module")
def dashboard() -> dict[str, Any]:
    read: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
    return read


def expressions(dashboard: dict[str, Any]) -> list[str]:
    charts = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    return [target["expr"] for panel in charts for target in panel["targets"]]


def test_every_metric_exists(dashboard: dict[str, Any]) -> None:
    from ray.dashboard.modules.reporter.reporter_agent import METRICS_GAUGES

    served = {f"ray_{prometheus_name(metric.key)}" for metric in METRICS if "<" not in metric.key}
    served |= {f"ray_{name}" for name in METRICS_GAUGES}
    queries = [each["query"] for each in dashboard["templating"]["list"] if each["type"] == "query"]
    named = set(re.findall(r"\bray_\w+", " ".join([*expressions(dashboard), *queries])))
    assert len(named) > 30
    assert named - served == set()


def test_charts_of_a_run_follow_the_run_that_is_chosen(dashboard: dict[str, Any]) -> None:
    ours = [text for text in expressions(dashboard) if text.startswith("ray_raylign_")]
    assert len(ours) > 20 and all(text.endswith('{run=~"$run"}') for text in ours)
    identifiers = [panel["id"] for panel in dashboard["panels"]]
    assert len(identifiers) == len(set(identifiers))
