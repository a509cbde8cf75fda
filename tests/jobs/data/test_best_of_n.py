"""`raylign data best-of-n` without an engine: what it writes, counts, refuses and takes up again."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from raylign.jobs.checks.machine import GIB, Machine
from raylign.jobs.cli import run_command_line
from raylign.jobs.compare.config import CompareConfig, SideConfig
from raylign.jobs.config.keys import models_in
from raylign.jobs.config.loading import ConfigError, load_config
from raylign.jobs.data.best_of_n import MAY_CHANGE_ON_RESUME, examine_best_of_n, open_prompts, write_results
from raylign.jobs.data.best_of_n_config import BestOfNConfig
from raylign.jobs.data.draw_log import DrawLog
from raylign.jobs.data.drawing import DrawReport
from raylign.jobs.data.job_folder import job_folder
from raylign.jobs.init_model import InitModelConfig, init_model
from raylign.rewards.judge.config import JudgeConfig, JudgeEndpoint
from raylign.rollout.data.config import DataConfig, PairsConfig
from raylign.rollout.data.prompts import PromptSource
from raylign.rollout.model_folder import load_tokenizer
from raylign.rollout.sample import Failure
from tests.jobs.data.drawing_by_hand import IDENTITY, draw_by_hand, drawing, prompts
from tests.patience import HANGS_S

TWO_CORES = Machine(2, 16 * GIB, 8 * GIB, 8 * GIB, ())


def configured(folder: Path, **values: Any) -> BestOfNConfig:
    defaults: dict[str, Any] = {"folder": str(folder), "best_of": [2, 4], "rewards": [{"name": "numeric"}]}
    return load_config(BestOfNConfig, [], defaults | values)


def drawn_by_hand(folder: Path, config: BestOfNConfig, count: int = 6) -> dict[str, Any]:
    folder.mkdir(exist_ok=True)
    with DrawLog(folder / "draws.jsonl", IDENTITY) as log:
        report = asyncio.run(draw_by_hand(log, prompts(count), settings=drawing(deterministic=True)))
        return write_results(config, prompts(count), log, report)


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_n_has_its_file_in_the_order_of_the_prompts(tmp_path: Path) -> None:
    summary = drawn_by_hand(tmp_path, configured(tmp_path, original_format=True))
    of_4 = read(tmp_path / "best_of_4.jsonl")
    # four answers of each prompt have neighbouring seeds: one of them is right, save that 0 is right twice
    assert [row["ordinal"] for row in of_4] == list(range(6))
    for row in of_4:
        assert row["sft_target"] == row["chosen"] == row["references"][0] != row["rejected"]
        assert (row["n"], row["chosen_score"], row["rejected_score"]) == (4, 1.0, 0.0)
        assert len(row["scores"]) == 4 and row["scores"].index(1.0) == row["chosen_index"]
        assert row["chosen_finished"] and row["prompt"] == f"say {row['ordinal']}:" and row["policy"] == "fake@1"
    of_2 = read(tmp_path / "best_of_2.jsonl")
    assert all(row["scores"] == of_4[row["ordinal"]]["scores"][:2] for row in of_2)
    part = summary["best_of"]["2"]
    assert part["num_pairs"] == len(of_2) and sum(part["dropped"].values()) == 6 - len(of_2)
    assert part["dropped"]["tied"] > 0  # half of the prompts have no right answer among the first two
    assert summary["best_of"]["4"]["in_theory"]["win_rate"] == 0.8
    assert json.loads((tmp_path / "summary.json").read_text()) == summary
    (original,) = [read(path) for path in (tmp_path / "best-of-4").iterdir()]
    assert original[0] == {
        "say 0:": {"responses": [of_4[0]["chosen"], of_4[0]["rejected"]], "pairs": [[0, 1]], "sft_target": "0"}
    }


def test_training_reads_the_files_without_edits(working: Callable[..., BestOfNConfig], tmp_path: Path) -> None:
    drawn_by_hand(tmp_path, configured(tmp_path, best_of=[4], original_format=True))
    tokenizer = load_tokenizer(working(tmp_path / "new").model)
    plain = {"prompt": "{prompt}", "reference": None, "template": "{prompt}", "shuffle": False}
    ours = DataConfig(source=str(tmp_path / "best_of_4.jsonl"), **plain)
    pairs = PromptSource.open_pairs(ours, tokenizer, 0, max_prompt_tokens=56, max_sequence_tokens=64)
    original = tmp_path / "best-of-4" / "bon_maxlen_256.jsonl"
    published = DataConfig(source=str(original), pairs=PairsConfig(format="best_worst"), **plain)
    same_pairs = PromptSource.open_pairs(published, tokenizer, 0, max_prompt_tokens=56, max_sequence_tokens=64)
    for ordinal, row in enumerate(read(tmp_path / "best_of_4.jsonl")):
        pair, same = pairs.pair(ordinal), same_pairs.pair(ordinal)
        assert (pair.prompt.text, pair.chosen, pair.rejected) == (row["prompt"], row["chosen"], row["rejected"])
        assert (same.prompt.text, same.chosen, same.rejected) == (row["prompt"], row["chosen"], row["rejected"])
        assert pair.num_drawn == 4
        assert pair.chosen_ids[-1] == tokenizer.eos_token_id


def test_files_are_the_same_after_a_resumed_draw(tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    drawn_by_hand(whole, configured(whole))
    for count in (2, 5, 6):
        drawn_by_hand(parts, configured(parts), count)
    for name in ("best_of_2.jsonl", "best_of_4.jsonl"):
        assert (whole / name).read_bytes() == (parts / name).read_bytes()


def test_failed_prompts_are_counted_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with DrawLog(tmp_path / "draws.jsonl", IDENTITY) as log:
        report = asyncio.run(draw_by_hand(log, prompts(2)))
        report.failed["p-2"] = str(Failure("engine", "engine", "out of memory").message)
        summary = write_results(configured(tmp_path), prompts(3), log, report)
    assert (summary["num_prompts"], summary["num_answered"]) == (3, 2)
    assert summary["failed_prompts"] == {"p-2": "out of memory"}
    assert "prompt p-2 failed, --resume tries it again: out of memory" in capsys.readouterr().out


def test_a_draw_without_a_single_answer_is_an_error(tmp_path: Path) -> None:
    with (
        DrawLog(tmp_path / "draws.jsonl", IDENTITY) as log,
        pytest.raises(ValueError, match="not one of 3 prompts was answered; the first failure: out of memory"),
    ):
        write_results(configured(tmp_path), prompts(3), log, DrawReport({"p-0": "out of memory"}))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"best_of": [8, 3]}, r"best_of is \[8, 3\]: write each number once, in rising order: \[3, 8\]"),
        ({"best_of": [1, 4]}, "at least 2 answers"),
        ({"best_of": []}, "best_of is empty"),
        ({"rewards": []}, "rewards is empty"),
        ({"sampling": {"max_tokens": 512}}, "no room is left for a prompt"),
        ({"sampling": {"temperature": 0}}, "sampling.temperature"),
        ({"sampling": {"top_p": 0.9}}, "top_p: unknown key"),
    ],
)
def test_config_that_makes_no_sense_is_refused(tmp_path: Path, values: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        configured(tmp_path, **values)


def test_only_what_changes_no_answer_may_change_on_resume(tmp_path: Path) -> None:
    first = configured(tmp_path)
    with job_folder(tmp_path, first, False, MAY_CHANGE_ON_RESUME):
        pass
    again = configured(tmp_path, best_of=[3, 4], num_prompts=50, num_engines=2, resume=True)
    with job_folder(tmp_path, again, True, MAY_CHANGE_ON_RESUME):
        pass
    with (
        pytest.raises(ValueError, match=r"sampling.temperature: 1.0 -> 0.5(?s:.*)undo the changes"),
        job_folder(tmp_path, configured(tmp_path, sampling={"temperature": 0.5}), True, MAY_CHANGE_ON_RESUME),
    ):
        pass
    with (
        pytest.raises(ValueError, match="exists and is not empty: go on with it by --resume"),
        job_folder(tmp_path, first, False, MAY_CHANGE_ON_RESUME),
    ):
        pass


def test_a_folder_is_written_by_one_process_at_a_time(tmp_path: Path) -> None:
    config = configured(tmp_path)
    with (
        job_folder(tmp_path, config, False, MAY_CHANGE_ON_RESUME),
        pytest.raises(ValueError, match="another process is writing"),
        job_folder(tmp_path, config, True, MAY_CHANGE_ON_RESUME),
    ):
        pass


@pytest.fixture(scope="module")
def working(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., BestOfNConfig]:
    """Configs of a draw that works, on a real model folder."""
    root = tmp_path_factory.mktemp("draw")
    rows = root / "sums.jsonl"
    rows.write_text("".join(json.dumps({"question": f"{a} + 1 =", "answer": str(a + 1)}) + "\n" for a in range(20)))
    data = DataConfig(source=str(rows))
    init_model(InitModelConfig(output=root / "model", data=data, num_layers=2, width=64, num_heads=2, num_kv_heads=1))

    def make(folder: Path, **values: Any) -> BestOfNConfig:
        defaults = {"model": str(root / "model"), "data": {"source": str(rows)}, "sampling": {"max_tokens": 8}}
        return configured(
            folder, **(defaults | {"engine": {"max_model_len": 64}, "cluster": {"address": "local"}} | values)
        )

    return make


def test_a_draw_that_works_has_no_problems(working: Callable[..., BestOfNConfig], tmp_path: Path) -> None:
    config = working(tmp_path / "new")
    assert examine_best_of_n(config, TWO_CORES).problems == []
    taken, fingerprint = open_prompts(config, config.model)
    assert len(taken) == 20 and {prompt.fingerprint for prompt in taken} == {fingerprint}
    assert len(open_prompts(working(tmp_path / "new", num_prompts=5), config.model)[0]) == 5


def test_all_problems_are_found_before_anything_starts(working: Callable[..., BestOfNConfig], tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    config = working(tmp_path, num_engines=3, engine={"max_model_len": 9000}, rewards=[{"name": "boxed"}])
    problems = "\n".join(examine_best_of_n(config, TWO_CORES).problems)
    assert "num_engines is 3: this machine has 2 cores" in problems
    assert "engine.max_model_len is 9000: the model has 1024 positions" in problems
    assert "exists and is not empty" in problems
    missing = working(tmp_path / "new", model=str(tmp_path / "none"))
    assert "model folder not found" in "\n".join(examine_best_of_n(missing, TWO_CORES).problems)


def test_the_command_is_of_two_words(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command_line(["data"]) == 0
    assert "data best-of-n" in capsys.readouterr().out
    assert run_command_line(["data", "best-of-n", "--best_of", "[3, 2]"]) == 2
    error = capsys.readouterr().err
    assert "rewards is empty" in error and "rising order" in error
    assert run_command_line(["data", "best-of"]) == 2
    assert "did you mean data best-of-n?" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run_command_line(["data", "best-of-n", "--help"])
    assert "--sampling.max_tokens" in capsys.readouterr().out


@pytest.mark.parametrize("config_class", [BestOfNConfig, CompareConfig, SideConfig, JudgeConfig, JudgeEndpoint])
def test_every_key_of_the_jobs_that_draw_has_a_sentence(config_class: type[BaseModel]) -> None:
    assert config_class.model_config.get("extra") == "forbid"
    for name, info in config_class.model_fields.items():
        if name != "name" and (not models_in(info.annotation) or "list" in str(info.annotation)):
            assert info.description and len(info.description) > 8, f"{config_class.__name__}.{name} has no sentence"


@pytest.mark.parametrize("module", ["data.best_of_n_config", "compare.config", "data.best_of_n", "compare"])
def test_their_modules_import_no_heavy_library(module: str) -> None:
    heavy = ("torch", "vllm", "deepspeed", "ray", "transformers", "datasets", "plotly", "openai")
    program = f"import sys, raylign.jobs.{module}; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=HANGS_S)
    assert done.stdout.strip() == "[]", done.stderr
