"""The card of an exported model: what it is, what it was trained on and how, and what was measured.

Given a run's config, metrics and summary as plain values; gives the text of `README.md`, as model hubs read it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from raylign.jobs.run.metrics import describe
from raylign.rollout.hub import looks_like_path

DATA_SECTIONS = {
    "data": "training",
    "more_data": "training",
    "trusted_data": "trusted rows",
    "evaluation.data": "evaluation, prompts",
    "evaluation.pairs": "evaluation, pairs",
    "evaluation.more_pairs": "evaluation, pairs",
    "evaluation.trusted": "evaluation, trusted rows",
}
SETTINGS = ("num_steps", "num_epochs", "seed", "algorithm", "learner", "rollout.prompts_per_step", "sampling", "async")
"""Sections and keys that say what was trained; the whole config lies beside the card."""


@dataclass(frozen=True)
class RunFacts:
    """What the card is written from."""

    name: str
    checkpoint: str
    step: int
    config: Mapping[str, Any]
    metrics: Sequence[Mapping[str, Any]]
    versions: Mapping[str, str]


def card(facts: RunFacts, curves: Sequence[tuple[str, str]]) -> str:
    """`curves`: title and file of each picture."""
    config = facts.config
    algorithm = look_up(config, "algorithm.name")
    start = look_up(config, "model.path")
    parts = [
        f"---\n{yaml.safe_dump(front_matter(config), sort_keys=False, allow_unicode=True)}---",
        f"# {facts.name}\n\n{start} trained with {algorithm}: {facts.checkpoint}, step {facts.step}.",
        "## Use\n\n```python\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        'tokenizer = AutoTokenizer.from_pretrained("this folder or repository")\n'
        'model = AutoModelForCausalLM.from_pretrained("this folder or repository")\n```\n\n'
        f"Prompts were rendered by {_template_words(config)}.",
        "## Data\n\n" + _table(("used for", "source", "split", "rows"), data_rows(config)),
        "## Settings\n\n" + _table(("key", "value"), settings(config)) + "\n\nAll keys: `training/config.yaml`.",
        "## Numbers\n\n" + _numbers(facts.metrics),
    ]
    if curves:
        parts.append("## Curves\n\n" + "\n".join(f"![{title}]({file})" for title, file in curves))
    versions = ", ".join(f"{name} {version}" for name, version in facts.versions.items())
    parts.append(f"Written by `raylign export`; trained with {versions}.")
    return "\n\n".join(parts) + "\n"


def front_matter(config: Mapping[str, Any]) -> dict[str, Any]:
    """What hubs index by. A folder of the trainer's machine is no name there; no licence is guessed."""
    start = str(look_up(config, "model.path"))
    sources = dict.fromkeys(row[1] for row in data_rows(config))
    named = [
        source for source in sources if not looks_like_path(source) and source.count("/") == 1 and ":" not in source
    ]
    values: dict[str, Any] = {
        "library_name": "transformers",
        "tags": ["raylign", str(look_up(config, "algorithm.name"))],
    }
    if start.count("/") == 1 and not looks_like_path(start):
        values["base_model"] = start
    if named:
        values["datasets"] = named
    return values


def data_rows(config: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """A row for each source that the run read."""
    found = [
        (words, data)
        for key, words in DATA_SECTIONS.items()
        for value in [look_up(config, key)]
        for data in (value if isinstance(value, list) else [value])
    ]
    return [
        (words, str(data["source"]), str(data.get("split", "")), str(data.get("rows", "")))
        for words, data in found
        if isinstance(data, Mapping)
    ]


def settings(config: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Keys that say what was trained, with values that say anything."""
    found = [(key, look_up(config, key)) for key in SETTINGS]
    leaves = [leaf for key, value in found for leaf in _leaves(key, value)]
    rewards = look_up(config, "rewards") or []
    names = [(f"rewards[{place}]", str(reward.get("name"))) for place, reward in enumerate(rewards)]
    return [(key, str(value)) for key, value in leaves if value not in (None, "", [], {})] + names


def look_up(config: Mapping[str, Any], key: str) -> Any:
    """A dotted key; None where it is not there."""
    value: Any = config
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _leaves(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    if not isinstance(value, Mapping):
        yield key, value
        return
    for name, inner in value.items():
        yield from _leaves(f"{key}.{name}", inner)


def _template_words(config: Mapping[str, Any]) -> str:
    template, system = look_up(config, "data.template"), look_up(config, "data.system")
    if template in (None, "chat"):
        return "the tokenizer's chat template" + (f" with the system message {system!r}" if system else "")
    return f"the template {template!r}"


def _numbers(metrics: Sequence[Mapping[str, Any]]) -> str:
    """The first and last value of what was measured on held-out rows, and of what learning is told by."""
    wanted = ("evaluation/", "reward/mean", "learner/loss", "preference/accuracy", "learner/kl")
    keys = list(dict.fromkeys(key for line in metrics for key in line if key.startswith(wanted)))
    rows = []
    for key in keys:
        values = [line[key] for line in metrics if isinstance(line.get(key), int | float) and math.isfinite(line[key])]
        if values:
            metric = describe(key)
            rows.append((key, f"{values[0]:.4g}", f"{values[-1]:.4g}", metric.meaning if metric else ""))
    return _table(("metric", "first", "last", "what it is"), rows) if rows else "Nothing was measured."


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    # a bar or a line break would end the cell
    return "\n".join(
        "| " + " | ".join(str(cell).replace("\n", "\\n").replace("|", "\\|") for cell in line) + " |" for line in lines
    )
