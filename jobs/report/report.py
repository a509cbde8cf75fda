"""The report: a run, finished or still going, as one self-contained page.

Given a run folder, or a folder of several (`runs/quickstart/{sft,grpo}`); gives `report.html` in it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from raylign.jobs.curricula.selection import SELECTION_FILE
from raylign.jobs.report.charts import COLOURS, Line, caption, figures, values_of
from raylign.jobs.report.page import folded, number, page, percent, table, tiles
from raylign.jobs.report.samples import samples_html
from raylign.jobs.report.selection import refreshes_html, selection_html
from raylign.jobs.report.stage import Problems, Stage, read_stages, read_summary
from raylign.jobs.report.starts import MISMATCH_WORDS, accuracy_words, starts_html
from raylign.jobs.run.folder import write_atomically
from raylign.jobs.run.progress import duration

MISMATCH = "mean |Δ log-prob|"
PHASES = {"wait": "waiting for groups", "learner": "learning", "weights": "sending weights"}
"""By metric, what the learner does in a step: engines and rewards go on beside it."""


def write_report(folder: Path | str, say: Callable[[str], None] = print) -> Path:
    """Write `report.html` of a run folder, or of a folder that holds several; say what of them cannot be shown."""
    folder = Path(folder).resolve()
    stages = read_stages(folder)
    if not stages:
        raise ValueError(f"{folder} holds no run: neither it nor a folder in it has a metrics.jsonl")
    drawn: dict[str, Any] = {}
    body = [_head(folder, stages), _evaluations(stages)]
    if len(stages) > 1:
        body.append(_comparison(stages))
    for index, stage in enumerate(stages):
        body.append(_stage(stage, index, alone=len(stages) == 1, drawn=drawn))
    report_path = folder / "report.html"
    write_atomically(report_path, page(f"{folder.name} · raylign", "\n".join(body), drawn))
    for stage in stages:
        for line in stage.problems.lines():
            say(f"not shown: {stage.path}/{line}")
    return report_path


def try_report(folder: Path, say: Callable[[str], None]) -> None:
    """The report of a run that is done. The run is what counts: whatever hinders its report is said, and no more."""
    try:
        write_report(folder, say)
    except Exception as error:  # not even a fault of ours in the report ends a finished run as failed
        reason = f"{type(error).__name__}: {error}"
        say(f"no report was written ({reason}); everything else is saved, and `raylign report {folder}` tries again")


def _head(folder: Path, stages: Sequence[Stage]) -> str:
    states = ", ".join(f"{stage.name} {stage.state}" for stage in stages) if len(stages) > 1 else stages[0].state
    links = "".join(f'<a href="#stage-{index}">{escape(stage.name)}</a>' for index, stage in enumerate(stages))
    # of a single run the same numbers stand below, as long as it goes on too
    summary = (read_summary(folder, Problems()) or {}) if len(stages) > 1 else {}
    facts = [fact for key, value in summary.items() if (fact := _fact(key, value))]
    return (
        f'<h1>{escape(folder.name)}</h1><p class="soft">{escape(states)}</p>'
        + (f"<nav>{links}</nav>" if len(stages) > 1 else "")
        + (tiles(facts) if facts else "")
    )


def _fact(key: str, value: Any) -> tuple[str, str] | None:
    """A number of summary.json as label and text; None for what is no number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if key == "seconds":
        return "time", duration(value)
    return key.removeprefix("num_").replace("_", " "), percent(value) if "accuracy" in key else number(value)


def _evaluations(stages: Sequence[Stage]) -> str:
    """Accuracy on held-out prompts before and after each stage, with its interval."""
    rows: list[list[str]] = []
    changes: list[str] = []
    for stage in stages:
        measured = [line for line in stage.lines if line.get("evaluation/accuracy") is not None]
        shown = measured if len(measured) < 3 else [measured[0], measured[-1]]
        rows += [[escape(stage.name), *_evaluation_cells(line)] for line in shown]
        if len(shown) == 2:
            before, after = (line["evaluation/accuracy"] for line in shown)
            points = f"{percent(before)} → {percent(after)} ({(after - before) * 100:+.1f} points)"
            changes.append(f"{stage.name}: {points}" if len(stages) > 1 else points)
    if not rows:
        return ""
    return (
        "<h2>Held-out accuracy</h2>"
        + "".join(f"<p>{escape(change)}</p>" for change in changes)
        + table(["stage", "0 to 100 %", "step", "accuracy", "95 % interval", "prompts"], rows, numbers_from=2)
        + '<p class="soft small">Intervals: Wilson, with prompts as clusters.</p>'
    )


def _evaluation_cells(line: Line) -> list[str]:
    accuracy = line["evaluation/accuracy"]
    low = line.get("evaluation/accuracy_low")
    high = line.get("evaluation/accuracy_high")
    low, high = (accuracy if low is None else low), (accuracy if high is None else high)
    bar = (
        f'<div class="interval"><i style="left:{low * 100:.2f}%;width:{(high - low) * 100:.2f}%"></i>'
        f'<b style="left:{accuracy * 100:.2f}%"></b></div>'
    )
    prompts = line.get("evaluation/num_prompts")
    return [
        bar,
        number(line.get("step", 0)),
        percent(accuracy),
        f"{percent(low)} – {percent(high)}",
        number(prompts) if prompts is not None else "",
    ]


def _comparison(stages: Sequence[Stage]) -> str:
    rows = [[escape(stage.name), *(escape(value) for _, value in _facts(stage))] for stage in stages]
    return "<h2>Stages</h2>" + table(["stage", *(label for label, _ in _facts(stages[0]))], rows)


def _facts(stage: Stage) -> list[tuple[str, str]]:
    """The same labels for every stage; `–` where it has no such number. Start and end are a tenth of the run."""
    lines = stage.lines
    tokens = values_of(lines, "rollout/tokens")[1] or values_of(lines, "learner/num_tokens")[1]
    speed = values_of(lines, "rollout/tokens_per_s")[1] or values_of(lines, "learner/tokens_per_s")[1]
    seconds = values_of(lines, "seconds")[1]
    mismatch = values_of(lines, "mismatch/mean_abs_logp_difference")[1]
    return [
        ("steps", number(stage.num_steps)),
        ("time", duration(max(seconds)) if seconds else "–"),
        ("tokens", number(sum(tokens)) if tokens else "–"),
        ("tokens/s, median", number(round(sorted(speed)[len(speed) // 2])) if speed else "–"),
        ("reward, start → end", _first_to_last(values_of(lines, "reward/mean")[1])),
        ("loss, start → end", _first_to_last(values_of(lines, "learner/loss")[1])),
        (MISMATCH, f"{sum(mismatch) / len(mismatch):.1e}" if mismatch else "–"),
    ]


def _tiles_of(stage: Stage) -> list[tuple[str, str]]:
    """What there is; a policy-gradient loss says nothing, so it is shown only without a reward."""
    facts = {label: value for label, value in _facts(stage) if value != "–"}
    if "reward, start → end" in facts:
        facts.pop("loss, start → end", None)
    return list(facts.items())


def _first_to_last(values: Sequence[float]) -> str:
    if not values:
        return "–"
    tenth = max(1, len(values) // 10)
    return f"{sum(values[:tenth]) / tenth:.3g} → {sum(values[-tenth:]) / tenth:.3g}"


def _stage(stage: Stage, index: int, alone: bool, drawn: dict[str, Any]) -> str:
    charts, missing = figures(stage.lines)
    parts = []
    for number_of_chart, (chart, figure) in enumerate(charts):
        chart_id = f"chart-{index}-{number_of_chart}"
        drawn[chart_id] = figure
        said = caption(chart) + (f" {accuracy_words(stage.config)}" if chart.title == "Accuracy" else "")
        parts.append(
            f"<figure><figcaption>{escape(chart.title)}<small>{escape(said)}</small></figcaption>"
            f'<div class="plot" id="{chart_id}"></div></figure>'
        )
    samples, selection = samples_html(stage.path, stage.problems), _selection(stage)
    refreshes = refreshes_html(stage.lines, stage.config)
    how = starts_html(stage)
    facts = _tiles_of(stage) if stage.lines else []
    title = "" if alone else f'<h2 class="stage" id="stage-{index}">{escape(stage.name)}</h2>'
    return "\n".join(
        [
            title + _not_shown(stage.problems),
            tiles(facts) if facts else "",
            f'<p class="soft small">{escape(MISMATCH_WORDS)}</p>' if MISMATCH in dict(facts) else "",
            _time_split(stage.lines),
            "<h3>Charts</h3>" if charts else '<p class="soft">No step has finished yet.</p>',
            f'<div class="charts">{"".join(parts)}</div>',
            f'<p class="soft small">Not measured here: {escape(", ".join(missing))}.</p>' if missing else "",
            "<h3>Selection of rows</h3>" + refreshes + selection if refreshes or selection else "",
            "<h3>Samples</h3>" + samples if samples else "",
            how,
            "<h3>Config</h3>" + folded("config.yaml", f"<pre>{escape(stage.config_yaml)}</pre>"),
        ]
    )


def _selection(stage: Stage) -> str:
    try:
        return selection_html(stage.path)
    except (ValueError, LookupError, TypeError, AttributeError, OSError) as error:  # pyarrow's errors are ValueErrors
        stage.problems.add(SELECTION_FILE, error)
        return ""


def _not_shown(problems: Problems) -> str:
    """What of the run could not be read."""
    items = "".join(f"<li>{escape(line)}</li>" for line in problems.lines())
    return f'<div class="failure"><b>Not shown, since it cannot be read:</b><ul>{items}</ul></div>' if items else ""


def _time_split(lines: Sequence[Line]) -> str:
    """Where the time of all steps went, as one bar."""
    seconds = {name: sum(values_of(lines, f"time/{name}_s")[1]) for name in PHASES}
    whole = max(sum(values_of(lines, "time/step_s")[1]), sum(seconds.values()))
    if whole <= 0:
        return ""
    parts = [(label, seconds[name], colour) for (name, label), colour in zip(PHASES.items(), COLOURS, strict=False)]
    parts.append(("other", whole - sum(seconds.values()), COLOURS[-1]))
    parts = [part for part in parts if part[1] > 0.001 * whole]
    bars = "".join(f'<span style="width:{s / whole * 100:.2f}%;background:{c}"></span>' for _, s, c in parts)
    legend = "".join(
        f'<span><i style="background:{c}"></i>{label} {percent(s / whole)} ({duration(s)})</span>'
        for label, s, c in parts
    )
    return f'<h3>Where the time went</h3><div class="split">{bars}</div><div class="legend">{legend}</div>'
