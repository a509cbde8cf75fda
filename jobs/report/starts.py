"""How a run was made: machine, versions, code, command line and start model of each start, as a table.

Given a stage; gives HTML from its `starts.jsonl` (jobs/run/provenance.py), and two sentences that depend on its config.
"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from raylign.jobs.report.page import table
from raylign.jobs.report.stage import Stage
from raylign.jobs.run.provenance import STARTS
from raylign.rollout.data.json_lines import read_json_lines

MISMATCH_WORDS = (
    "Mean |Δ log-prob|: how far learner and engine are apart on the tokens that are trained. About 1e-6 where both "
    "have the same weights in float32; with older weights (async.max_staleness above 0) the policy has moved."
)


def starts_html(stage: Stage) -> str:
    """Nothing for runs of before."""
    path = stage.path / STARTS
    if not path.is_file():
        return ""
    try:
        starts = [start for _, start in read_json_lines(path) if isinstance(start, Mapping)]
    except (ValueError, OSError) as error:
        stage.problems.add(STARTS, error)
        return ""
    rows = [[escape(key), escape(value)] for start in starts for key, value in _facts(start)]
    return "<h3>How it was run</h3>" + table(["what", "value"], rows, numbers_from=2) if rows else ""


def _facts(start: Mapping[str, Any]) -> list[tuple[str, str]]:
    machine, git, model = (_mapping(start.get(key)) for key in ("machine", "git", "model"))
    versions = _mapping(start.get("versions"))
    commit = f"{git.get('commit')}{', with changes' if git.get('changed') else ''}" if git else "no checkout"
    gpus, host = machine.get("gpus"), machine.get("host", "–")
    size = f"{machine.get('cores', '–')} cores, {machine.get('memory_gib', '–')} GiB"
    named = ", ".join(map(str, gpus)) if isinstance(gpus, list) and gpus else "no GPU"
    if "after" in start:  # by itself: all else is as before
        return [("started again", f"{start.get('time', '–')}: {start['after']}")]
    return [
        ("started", str(start.get("time", "–"))),
        ("command", f"{start.get('command') or 'from Python'}   (in {start.get('folder', '–')})"),
        ("machine", f"{host}: {size}, {named}; {machine.get('system', '–')}"),
        ("versions", ", ".join(f"{name} {version}" for name, version in versions.items())),
        ("git", commit),
        ("start model", f"{model.get('path', '–')} (fingerprint {model.get('fingerprint') or 'unknown'})"),
    ]


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def accuracy_words(config: Mapping[str, Any]) -> str:
    """Training and held-out accuracy in one chart are not sampled alike."""
    training = _mapping(config.get("sampling")).get("temperature")
    held_out = _mapping(config.get("evaluation")).get("temperature")
    if training is None or held_out is None or training == held_out:
        return ""
    greedy = ", greedily" if held_out == 0 else ""
    return (
        f"Training answers are sampled at temperature {training}, held-out ones at {held_out}{greedy}: compare each "
        "line with itself."
    )
