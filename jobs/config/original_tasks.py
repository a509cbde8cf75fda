"""`configs/tasks.yaml` of SAIL's published program as a sweep of ours.

Given the file; gives the sections of a `SweepConfig`: models and data sets by their published short names, one task for
each entry of `tasks`, and what follows each run. A pipeline, name or parameter that the program does not have, or has
and misses, is an error with file and line.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from raylign.jobs.config.keys import nearest
from raylign.jobs.config.loading import Layer, read_recipe
from raylign.jobs.originals.sail_names import FAMILIES, HELD_OUT_ROWS, MODELS, OWN_HELD_OUT, data_keys, family_of

REWARDS: dict[str, list[dict[str, Any]]] = {
    "PP": [{"name": "reward_model", "model": "PKU-Alignment/beaver-7b-v1.0-reward", "max_tokens": 2048}],
    "PM": [{"name": "reward_model", "model": "PKU-Alignment/beaver-7b-v1.0-cost", "max_tokens": 2048, "weight": -1}],
    "U": [{"name": "reward_model", "model": "openbmb/Eurus-RM-7b", "max_tokens": 2048}],
}
"""A cost model counts against an answer. The published map has none for the safer labels: it says PH for PM."""
PARAMETERS = {
    "beta": "algorithm.beta",
    "r": "algorithm.ddp.share",
    "rho": "algorithm.ddp.coefficient",
    "p": "algorithm.dpp.share",
    "pi": "algorithm.dpp.coefficient",
    "g": "algorithm.dpr.share",
    "gamma": "algorithm.dpr.coefficient",
}
REQUIRED = {
    "DPO": ("beta",),
    "DDP": ("beta", "r", "rho"),
    "DPP": ("beta", "p", "pi"),
    "DPR": ("beta", "g", "gamma"),
    "MIX": ("beta", "r", "rho", "p", "pi", "g", "gamma"),
}
STAGES = ("SFT", "DPO", "GEN", "EVALREWARD", "EVALGPT")
KEYS = ("tag", "pipelines", "model", "dataset", "tasks")
ROOM = {"sampling.max_tokens": 1024, "engine.max_model_len": 2048}


class OriginalTasksError(ValueError):
    """The file cannot be read as the published program would."""


def read_original_tasks(path: Path, models: Mapping[str, Any], datasets: Mapping[str, Any]) -> dict[str, Any]:
    """The sections. `models`, `datasets`: keys of the user's own by short name, above the published ones."""
    if not path.is_file():
        raise OriginalTasksError(f"no file {path}: tasks_yaml is configs/tasks.yaml of the published program")
    return _Reader(path, read_recipe(path)).sections(models, datasets)


class _Reader:
    """One file, with the line of each of its keys for errors."""

    def __init__(self, path: Path, layer: Layer) -> None:
        self._path, self._values, self._places = path, layer.values, layer.places

    def sections(self, models: Mapping[str, Any], datasets: Mapping[str, Any]) -> dict[str, Any]:
        for key in self._values:
            self._known(key, KEYS, (key,), "key")
        stages = [self._known(str(stage), STAGES, ("pipelines",), "pipeline") for stage in self._list("pipelines")]
        model_names = [str(name) for name in self._list("model")]
        data_names = [str(name) for name in self._list("dataset")]
        data = {name: self._data_keys(name) | dict(datasets.get(name, {})) for name in data_names}
        return {
            "name": str(self._values.get("tag") or "sweep"),
            "models": {name: self._model_keys(name) | dict(models.get(name, {})) for name in model_names},
            "datasets": data,
            "sft": {"config": ["sail_sft"], "set": {"num_epochs": 10}} if "SFT" in stages else None,
            "tasks": dict(self._tasks(stages, data)),
        }

    def _tasks(self, stages: list[str], datasets: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, Any]]:
        names: list[str] = []
        for index, task in enumerate(self._list("tasks")):
            place = ("tasks", index)
            if not isinstance(task, dict) or "pipeline" not in task:
                raise self._error(place, "a task names its `pipeline` and a list for each parameter")
            pipeline = self._known(str(task["pipeline"]), tuple(REQUIRED), (*place, "pipeline"), "pipeline")
            required = REQUIRED[pipeline]
            for parameter in task:
                if parameter != "pipeline":
                    self._known(str(parameter), required, (*place, parameter), f"parameter of {pipeline}")
            if missing := [parameter for parameter in required if parameter not in task]:
                raise self._error(place, f"{pipeline} needs {', '.join(required)}; missing: {', '.join(missing)}")
            grid = {PARAMETERS[each]: self._values_of(task[each], (*place, each)) for each in required}
            names.append(pipeline)
            count = names.count(pipeline)
            scores = pipeline in ("DPR", "MIX")
            yield (
                pipeline if count == 1 else f"{pipeline}-{count}",
                {
                    "config": [f"sail_{pipeline.lower()}"],
                    "grid": grid,
                    "labels": {PARAMETERS[each]: each for each in required},
                    "datasets": {
                        name: _held_out(name, keys, "evaluation.pairs")
                        | ({"rewards": self._rewards(name)} if scores else {})
                        for name, keys in datasets.items()
                    },
                    "then": list(self._then(stages, datasets)),
                },
            )

    def _then(self, stages: list[str], datasets: Mapping[str, Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
        """`evaluate` answers and scores in one go, so with EVALREWARD there is nothing left for GEN to do."""
        asked = {name: _held_out(name, keys, "data") for name, keys in datasets.items()}
        common = {"data.prompt": "{prompt}", "data.reference": None, "data.skip_too_long": True, **ROOM}
        if "EVALREWARD" in stages:
            yield {
                "name": "EVALREWARD",
                "command": "evaluate",
                "set": {"model": "{run}", **common},
                "datasets": {name: keys | {"rewards": self._rewards(name)} for name, keys in asked.items()},
            }
        elif "GEN" in stages:
            yield {
                "name": "GEN",
                "command": "sample",
                "set": {"model": "{run}", "sampling.temperature": 0.0, **common},
                "datasets": asked,
            }
        if "EVALGPT" in stages:
            yield {
                "name": "EVALGPT",
                "command": "compare",
                "set": {"new.model": "{run}", "reference.model": "{start}", "judge.model": "gpt-4o", **common},
                "datasets": asked,
            }

    def _model_keys(self, name: str) -> dict[str, Any]:
        return {"model.path": MODELS[self._known(name, tuple(MODELS), ("model",), "model")]}

    def _data_keys(self, name: str) -> dict[str, Any]:
        keys = data_keys(name)
        if keys is None:
            known = ", ".join(f"{each}10, {each}30, {each}0" for each in FAMILIES)
            raise self._error(("dataset",), f"unknown data set {name!r}; known: {known}")
        return keys

    def _rewards(self, name: str) -> list[dict[str, Any]]:
        family, _ = family_of(name)
        if family not in REWARDS:
            raise self._error(("dataset",), f"{name} has no published reward model, which EVALREWARD, DPR and MIX need")
        return REWARDS[family]

    def _list(self, key: str) -> list[Any]:
        value = self._values.get(key)
        if not isinstance(value, list) or not value:
            raise self._error((key,), f"`{key}` must be a list with something in it, not {value!r}")
        return value

    def _values_of(self, value: Any, place: tuple[Any, ...]) -> list[Any]:
        if not isinstance(value, list) or not value or not all(isinstance(one, int | float) for one in value):
            raise self._error(place, f"a list of numbers is expected, not {value!r}")
        return value

    def _known(self, word: str, known: tuple[str, ...], place: tuple[Any, ...], what: str) -> str:
        if word in known:
            return word
        hint = nearest(word, known)
        raise self._error(
            place,
            f"unknown {what} {word!r}" + (f"; did you mean {hint}?" if hint else "") + f" Known: {', '.join(known)}",
        )

    def _error(self, place: tuple[Any, ...], message: str) -> OriginalTasksError:
        return OriginalTasksError(f"{self._places.get(place, str(self._path))}: {message}")


def _held_out(name: str, keys: Mapping[str, Any], section: str) -> dict[str, Any]:
    """The same source under another section, with the rows that are not trained on."""
    family, size = family_of(name)
    moved = {f"{section}.{key.removeprefix('data.')}": value for key, value in keys.items() if key.startswith("data.")}
    own_split = OWN_HELD_OUT.get(family or "")
    if own_split is not None and (size == "0" or (family in ("PP", "PM") and size == "30")):
        return moved | {f"{section}.split": own_split}
    return moved | {f"{section}.rows": HELD_OUT_ROWS[size][1] if size != "0" else "0%:5%"}
