"""Every kind of bad input, through `raylign train`: one clear error, in seconds, nothing started and nothing lost.

What each message says in full is tested beside the part that writes it; here each kind goes through the whole command.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from raylign.jobs.cli import run_command_line
from tests.end_to_end.conftest import small_config, write_recipe
from tests.patience import HANGS_S

Values = dict[str, Any]
Case = Callable[[Values, Path], str]
"""Spoils good values; gives the words that the error must hold, separated by `|`."""


def rows_file(folder: Path, text: str) -> dict[str, str]:
    file = folder / "rows.jsonl"
    file.write_text(text)
    return {"source": str(file)}


def misspelt_key(values: Values, folder: Path) -> str:
    values["learner"]["learning_rat"] = 1
    return "recipe.yaml:|learning_rat|did you mean learner.learning_rate"


def wrong_type(values: Values, folder: Path) -> str:
    values["num_steps"] = "many"
    return "recipe.yaml:|num_steps|'many'"


def out_of_range(values: Values, folder: Path) -> str:
    values["learner"]["zero_stage"] = 4
    return "recipe.yaml:|zero_stage|4"


def missing_file(values: Values, folder: Path) -> str:
    values["data"] = {"source": str(folder / "nothing.jsonl")}
    return "data: |nothing.jsonl"


def empty_file(values: Values, folder: Path) -> str:
    values["data"] = rows_file(folder, "")
    return "data: |rows.jsonl|empty"


def broken_line(values: Values, folder: Path) -> str:
    values["data"] = rows_file(folder, '{"question": "1 + 1 =", "answer": "2"}\n{"question": \n')
    return "data: |rows.jsonl:2"


def missing_column(values: Values, folder: Path) -> str:
    values["data"] = rows_file(folder, '{"query": "1 + 1 =", "reply": "2"}\n')
    return "data: |query|reply"


def prompt_longer_than_the_context(values: Values, folder: Path) -> str:
    values["data"] = rows_file(folder, json.dumps({"question": "1 + " * 50, "answer": "50"}) + "\n")
    return "data: |row 1|tokens|28"  # 32 less 4 to generate


def unknown_model_folder(values: Values, folder: Path) -> str:
    values["model"] = {"path": str(folder / "no-model")}
    return "model.path: |no-model"


def model_without_weights(values: Values, folder: Path) -> str:
    values["model"]["path"] = copied_model(values, folder)
    (folder / "model" / "model.safetensors").unlink()
    return "model.path: |no weights"


def tokenizer_without_end(values: Values, folder: Path) -> str:
    values["model"]["path"] = copied_model(values, folder)
    drop_token(folder / "model", "eos_token")
    return "model.path: |no end"


def unknown_reward(values: Values, folder: Path) -> str:
    values["rewards"] = [{"name": "numerc"}]
    return "recipe.yaml:|numerc|did you mean 'numeric'"


def reward_that_does_not_import(values: Values, folder: Path) -> str:
    return spoil_reward(values, folder, "import no_such_module\n", "no_such_module")


def reward_that_returns_nan(values: Values, folder: Path) -> str:
    return spoil_reward(values, folder, reward_body("return [float('nan')] * len(completions)"), "nan")


def reward_that_raises(values: Values, folder: Path) -> str:
    return spoil_reward(values, folder, reward_body("raise RuntimeError('no luck')"), "no luck")


def reward_that_hangs(values: Values, folder: Path) -> str:
    return spoil_reward(values, folder, reward_body("import time; time.sleep(6000)"), "timeout", 1)


def reward_with_the_wrong_count(values: Values, folder: Path) -> str:
    return spoil_reward(values, folder, reward_body("return [1.0]"), "wrong_count")


def more_ranks_than_cores(values: Values, folder: Path) -> str:
    values["learner"]["num_ranks"] = 4096
    return "learner.num_ranks is 4096: this machine has"


def more_engines_than_cores(values: Values, folder: Path) -> str:
    values["rollout"]["num_engines"] = 4096
    return "rollout.num_engines is 4096: this machine has"


def run_folder_that_exists(values: Values, folder: Path) -> str:
    values["folder"] = str(folder / "earlier")
    return "earlier exists|--resume|new name"


def resumed_with_another_config(values: Values, folder: Path) -> str:
    values |= {"folder": str(folder / "earlier"), "resume": True}
    return "seed: 4 -> 3|undo the changes"


def resumed_from_a_checkpoint_that_would_run_code(values: Values, folder: Path) -> str:
    values |= {"folder": str(folder / "foreign"), "resume": True}
    (folder / "others").mkdir()
    step = earlier_run(values | {"resume": False}, folder / "others").rename(folder / "foreign")
    step /= "checkpoints/step-000001"
    record = {"step": 1, "seed": 3, "data_fingerprint": ""}
    (step / "complete.json").write_text(json.dumps(record))
    (step / "state").mkdir()
    (step / "state" / "mp_rank_00_model_states.pt").write_bytes(pickle.dumps(Attack(folder / "new")))
    return f"{step}/state/mp_rank_00_model_states.pt: not loaded: |could run code"


class Attack:
    """Leaves a trace when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self._trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self._trace}",)


CASES: list[Case] = [
    misspelt_key,
    wrong_type,
    out_of_range,
    missing_file,
    empty_file,
    broken_line,
    missing_column,
    prompt_longer_than_the_context,
    unknown_model_folder,
    model_without_weights,
    tokenizer_without_end,
    unknown_reward,
    reward_that_does_not_import,
    reward_that_returns_nan,
    reward_that_raises,
    reward_that_hangs,
    reward_with_the_wrong_count,
    more_ranks_than_cores,
    more_engines_than_cores,
    run_folder_that_exists,
    resumed_with_another_config,
    resumed_from_a_checkpoint_that_would_run_code,
]


@pytest.mark.parametrize("spoil", CASES, ids=lambda spoil: spoil.__name__)
def test_bad_input_is_one_clear_error_and_nothing_is_started_or_lost(
    spoil: Case, start_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = small_config(start_model, tmp_path / "new", cluster={"address": "local"})
    values["data"] = rows_file(tmp_path, '{"question": "1 + 1 =", "answer": "2"}\n' * 8)
    earlier = earlier_run(values | {"seed": 4}, tmp_path)
    kept = contents(earlier)
    said = spoil(values, tmp_path)
    recipe = write_recipe(values, tmp_path / "recipe.yaml")
    processes = children()

    own, all_together = time.process_time(), processor_s()
    assert run_command_line(["train", "--config", str(recipe)]) == 2
    assert time.process_time() - own < 5
    assert processor_s() - all_together < 20

    error = capsys.readouterr().err
    assert all(line.startswith("error: ") for line in error.splitlines()), error
    assert [words for words in said.split("|") if words not in error] == [], error
    assert not (tmp_path / "new").exists()  # the run folder is made before the first role starts
    assert children() <= processes
    assert contents(earlier) == kept


def earlier_run(values: Values, folder: Path) -> Path:
    """A run folder with everything that could be lost."""
    from raylign.jobs.config.loading import config_yaml
    from raylign.jobs.run.folder import RunFolder
    from tests.end_to_end.conftest import configured

    path = folder / "earlier"
    with RunFolder.create(path, config_yaml(configured(values | {"folder": str(path)}))) as run_folder:
        run_folder.append_metrics({"step": 1, "learner/loss": 0.5})
    (path / "checkpoints" / "step-000001").mkdir()
    (path / "checkpoints" / "step-000001" / "complete.json").write_text("{}")
    return path


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def children() -> set[psutil.Process]:
    """Direct ones: Ray's own are those, and a Ray of this test session starts workers below them at any time."""
    return {child for child in psutil.Process().children() if child.status() != psutil.STATUS_ZOMBIE}


def reward_body(body: str) -> str:
    return f"def reward(completions, **_):\n    {body}\n"


def processor_s() -> float:
    """Of this process and of the ended ones that it started."""
    return sum(psutil.Process().cpu_times()[:4])


def spoil_reward(values: Values, folder: Path, text: str, said: str, deadline_s: float = HANGS_S) -> str:
    file = folder / "mine.py"
    file.write_text(text)
    values["rewards"] = [{"name": "function", "path": f"{file}:reward", "deadline_s": deadline_s}]
    return f"rewards: |{said}"


def copied_model(values: Values, folder: Path) -> str:
    shutil.copytree(values["model"]["path"], folder / "model")
    return str(folder / "model")


def drop_token(model: Path, name: str) -> None:
    for file in ("tokenizer_config.json", "special_tokens_map.json"):
        if (model / file).is_file():
            settings = json.loads((model / file).read_text())
            settings.pop(name, None)
            (model / file).write_text(json.dumps(settings))
