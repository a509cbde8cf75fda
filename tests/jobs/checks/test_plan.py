"""Checks before a run starts, on a real tiny model and real data files."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from raylign.jobs.checks.findings import Findings, PlanError
from raylign.jobs.checks.machine import GIB, Gpu, Machine
from raylign.jobs.checks.memory_estimate import read_model_size
from raylign.jobs.checks.plan import check_before_evaluation, check_before_start, examine_evaluation, examine_training
from raylign.jobs.cli import run_command_line
from raylign.jobs.config.evaluate import EvaluateConfig
from raylign.jobs.config.loading import config_yaml
from raylign.jobs.config.train import TrainConfig
from raylign.learners.algorithms.bilevel.bdr_online import BdrOnlineConfig
from raylign.learners.algorithms.preference.sail import SailConfig
from tests.patience import HANGS_S

TWO_CORES = Machine(2, 16 * GIB, 8 * GIB, 8 * GIB, ())
TWO_GPUS = Machine(8, 64 * GIB, 64 * GIB, 8 * GIB, (Gpu("a GPU", 80 * GIB, 79 * GIB, "600.1"),) * 2)


def examine(values: dict[str, Any], machine: Machine = TWO_CORES, **changes: Any) -> Findings:
    return examine_training(TrainConfig.model_validate(values | changes), machine)


def only_problem(findings: Findings) -> str:
    assert len(findings.problems) == 1, findings.problems
    return findings.problems[0]


# a run that works


def test_a_good_run_has_no_problems_and_shows_a_prompt_with_the_reward_of_its_reference(
    values: dict[str, Any],
) -> None:
    findings = examine(values)
    assert findings.problems == [] and findings.warnings == []
    facts = dict(findings.facts)
    assert "+" in facts["  first prompt"]
    assert facts["  its tokens"].endswith("of at most 56")
    assert facts["  numeric"] == "1 for the reference, 0 for an empty completion"
    assert facts["data"].endswith(": 80 rows of 100 (0%:80%)")


def test_the_command_prints_the_plan(values: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    words = ["plan", "--model.path", values["model"]["path"], "--data.source", values["data"]["source"]]
    words += ["--rewards", '[{"name": "numeric"}]', "--folder", str(values["folder"]), "--cluster.address", "local"]
    assert run_command_line(words) == 0
    printed = capsys.readouterr().out
    assert "ready to start" in printed and "KV cache" in printed
    assert run_command_line([*words, "--learner.num_ranks", "9999"]) == 2
    assert "problem: learner.num_ranks is 9999" in capsys.readouterr().out
    assert not values["folder"].exists()


def test_supervised_training_shows_a_demonstration_and_needs_no_engine(values: dict[str, Any]) -> None:
    findings = examine(values, algorithm={"name": "sft"}, rewards=[])
    assert findings.problems == []
    assert "  its demonstration" in dict(findings.facts)
    assert not any(role == "one engine" for role, _, _ in findings.memory)


# problems, each named by its key


def test_all_problems_are_listed_in_one_error(values: dict[str, Any], tmp_path: Path) -> None:
    values["folder"].mkdir()
    (values["folder"] / "metrics.jsonl").touch()
    values |= {"data": {"source": str(tmp_path / "nothing.jsonl")}, "learner": {"num_ranks": 100_000}}
    with pytest.raises(PlanError) as caught:
        check_before_start(TrainConfig.model_validate(values))
    keys = [line.split(":")[0].split(" is ")[0] for line in str(caught.value).split("\n")]
    assert keys[:2] == ["folder", "learner.num_ranks"] and keys[-1] == "data"


def test_an_existing_run_folder_asks_for_resume_or_a_new_name(values: dict[str, Any]) -> None:
    values["folder"].mkdir()
    assert examine(values).problems == []  # empty: nothing can be lost
    (values["folder"] / "metrics.jsonl").touch()
    problem = only_problem(examine(values))
    assert "go on with it by --resume, or choose a new name" in problem
    assert "not a folder to resume" in only_problem(examine(values, resume=True))
    (values["folder"] / "config.yaml").write_text(config_yaml(TrainConfig.model_validate(values)))
    assert examine(values, resume=True).problems == []
    assert any("seed: 0 -> 1" in problem for problem in examine(values, resume=True, seed=1).problems)


def test_more_ranks_or_engines_than_cores(values: dict[str, Any]) -> None:
    assert examine(values, learner={"num_ranks": 2}).problems == []
    assert only_problem(examine(values, learner={"num_ranks": 3})) == "learner.num_ranks is 3: this machine has 2 cores"
    rollout = {**values["rollout"], "num_engines": 4}
    assert only_problem(examine(values, rollout=rollout)) == "rollout.num_engines is 4: this machine has 2 cores"


def test_more_ranks_or_engines_than_gpus(values: dict[str, Any]) -> None:
    assert examine(values, TWO_GPUS).problems == []
    problem = only_problem(examine(values, TWO_GPUS, learner={"num_ranks": 2}))
    assert problem == "learner.num_ranks and rollout.num_engines take 3 GPUs together: this machine has 2"
    problem = only_problem(examine(values, TWO_GPUS, learner={"num_ranks": 3}))
    assert problem == "learner.num_ranks is 3: this machine has 2 GPUs"
    rollout = {"num_engines": 2, "engine": {"max_model_len": 64, "tensor_parallel_size": 2}}
    problem = only_problem(examine(values, TWO_GPUS, rollout=rollout))
    assert problem == "rollout.num_engines is 2 of 2 GPUs each: this machine has 2 GPUs"


def test_one_gpu_is_shared_by_one_engine_and_one_rank(values: dict[str, Any]) -> None:
    one_gpu = replace(TWO_GPUS, gpus=TWO_GPUS.gpus[:1])
    findings = examine(values, one_gpu)
    assert findings.problems == []
    assert dict(findings.facts)["GPU"] == (
        "the engine (at most 40% of its memory) and the learner rank take turns on it"
    )
    assert ("one engine", "vLLM (gpu_memory_utilization)", 32 * GIB) in findings.memory
    problem = only_problem(examine(values, one_gpu, learner={"num_ranks": 2}))
    assert problem == "learner.num_ranks is 2: this machine has 1 GPUs"
    assert examine(values, one_gpu, weights={"transport": "nccl"}).problems == []  # on one node nothing travels


def test_a_run_folder_inside_a_submitted_job(values: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "working_dir_files" / "_ray_pkg_0123" / "runs" / "a"
    assert "deletes after it" in only_problem(examine(values, folder=folder))


def test_a_cluster_elsewhere_is_not_held_against_this_machine(values: dict[str, Any]) -> None:
    assert examine(values, learner={"num_ranks": 64}, cluster={"address": "ray://head:10001"}).problems == []


def test_a_gpu_transport_without_gpus(values: dict[str, Any]) -> None:
    assert only_problem(examine(values, weights={"transport": "nccl"})).startswith(
        "weights.transport is nccl: it needs"
    )


def test_a_model_folder_that_is_missing_or_has_no_weights(values: dict[str, Any], model: Path, tmp_path: Path) -> None:
    assert "model folder not found" in only_problem(examine(values, model={"path": str(tmp_path / "none")}))
    broken = tmp_path / "broken"
    shutil.copytree(model, broken)
    (broken / "model.safetensors").unlink()
    assert "no weights" in only_problem(examine(values, model={"path": str(broken)}))


def test_a_tokenizer_without_end_token(values: dict[str, Any], model: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(model, broken)
    settings = json.loads((broken / "tokenizer_config.json").read_text())
    del settings["eos_token"]
    (broken / "tokenizer_config.json").write_text(json.dumps(settings))
    assert "no end (EOS) token" in only_problem(examine(values, model={"path": str(broken)}))


def test_a_context_longer_than_the_model_or_its_cache(values: dict[str, Any]) -> None:
    long = {"engine": {"max_model_len": 2000}}
    assert only_problem(examine(values, rollout=long)) == (
        "rollout.engine.max_model_len is 2000: the model has 1024 positions; set it to 1024 or less"
    )
    # 2 layers × 1 head × 32 wide × keys and values × 4 bytes = 512 bytes for a token: 0.00001 GiB hold 20 of them
    small = {"engine": {"max_model_len": 64, "kv_cache_gib": 0.00001}}
    assert "it holds 20 tokens, and one sequence may have rollout.engine.max_model_len = 64" in only_problem(
        examine(values, rollout=small)
    )


def test_a_prompt_longer_than_the_context(values: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(
        '{"question": "2 + 2", "answer": "4"}\n' + json.dumps({"question": "x" * 900, "answer": "1"}) + "\n"
    )
    problem = only_problem(examine(values, data={"source": str(file)}))
    assert problem.startswith(f"data: {file}, row 2: the prompt has ") and "more than the 56" in problem


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"question": "a", "answer": "b"}\n{"question": \n', ":2"),
        ("", "empty"),
        ('{"query": "a", "answer": "b"}\n', "query"),
    ],
)
def test_data_that_is_broken_empty_or_lacks_a_column(
    values: dict[str, Any], tmp_path: Path, text: str, said: str
) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(text)
    problem = only_problem(examine(values, data={"source": str(file)}))
    assert problem.startswith("data: ") and str(file) in problem and said in problem


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("return [float('nan')] * len(completions)", "nan"),
        ("return [1.0]", "wrong_count"),
        ("raise RuntimeError('no luck')", "no luck"),
        ("import time; time.sleep(6000)", "timeout"),
        ("import os; os._exit(3)", "crash"),
    ],
)
def test_a_reward_function_that_fails_on_every_sample_row(
    values: dict[str, Any], tmp_path: Path, body: str, said: str
) -> None:
    file = tmp_path / "mine.py"
    file.write_text(f"def reward(completions, **_):\n    {body}\n")
    rewards = [{"name": "function", "path": f"{file}:reward", "deadline_s": 1 if said == "timeout" else HANGS_S}]
    problem = only_problem(examine(values, rewards=rewards))
    assert problem.startswith(f"rewards: function fails on every one of {1 if said == 'timeout' else 4} sample rows")
    assert said in problem


def test_a_reward_function_that_does_not_import(values: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("import no_such_module\n")
    problem = only_problem(examine(values, rewards=[{"name": "function", "path": f"{file}:reward"}]))
    assert problem.startswith("rewards: ") and "no_such_module" in problem


def test_a_reference_that_earns_nothing_is_a_warning(values: dict[str, Any]) -> None:
    findings = examine(values, rewards=[{"name": "boxed"}])
    assert findings.problems == []
    assert findings.warnings[0].startswith("rewards: boxed gives the reference answer no more than an empty one")


def test_evaluating_on_training_rows_is_a_warning(values: dict[str, Any]) -> None:
    apart = {"data": {**values["data"], "rows": "80%:100%"}}
    assert examine(values, evaluation=apart).warnings == []
    shared = {"data": {**values["data"], "rows": "70%:100%"}}
    assert "evaluated on rows that it trains on" in examine(values, evaluation=shared).warnings[0]


def test_an_evaluation_is_checked_the_same_way(values: dict[str, Any], tmp_path: Path) -> None:
    good = {key: values[key] for key in ("folder", "data", "sampling", "rewards", "cluster")}
    good |= {"model": values["model"]["path"], "engine": {"max_model_len": 64}}
    assert examine_evaluation(EvaluateConfig.model_validate(good), TWO_CORES).problems == []
    bad = EvaluateConfig.model_validate(good | {"model": str(tmp_path / "none"), "num_engines": 99_999})
    with pytest.raises(PlanError, match=r"num_engines is 99999: .*\nmodel: model folder not found"):
        check_before_evaluation(bad)


# memory


def test_a_run_that_cannot_fit_is_a_problem_and_a_doubtful_one_a_warning(values: dict[str, Any]) -> None:
    cache = {"engine": {"max_model_len": 64, "kv_cache_gib": 20}}
    assert only_problem(examine(values, rollout=cache)).startswith("memory: about 2")
    wide = {"engine": {"max_model_len": 64}, "prompts_per_step": 10_000}
    findings = examine(values, rollout=wide, learner={"micro_batch_tokens": 4_000_000})
    assert findings.problems == [] and findings.warnings[0].startswith("memory: about ")


def test_a_replay_of_nothing_is_found_before_the_start(values: dict[str, Any], tmp_path: Path) -> None:
    (problem,) = examine(values | {"replay": str(tmp_path / "gone")}).problems
    assert "holds no experience/ folder, so there is no recorded run to replay" in problem


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("query_key_value", "'query_key_value' is no module of the model"),
        ("embed_tokens", "'embed_tokens' is an embedding, which gets no adapter"),
        ("lm_head", "'lm_head' is the output head, which gets no adapter"),
        ("self_attn", "'self_attn' is a Qwen3Attention, not a linear layer"),
        ("input_layernorm", "'input_layernorm' is a Qwen3RMSNorm, not a linear layer"),
        ("proj", "'proj' is no module of the model"),
    ],
)
def test_adapters_on_what_is_no_linear_layer(values: dict[str, Any], target: str, words: str) -> None:
    lora = {"target_modules": ["q_proj", target]}
    problem = only_problem(examine(values, learner={"lora": lora}))
    assert problem == (
        f"learner.lora.target_modules: {words}; this model's linear layers are "
        "q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj"
    )


@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "v_proj"], ["layers.0.self_attn.q_proj"]])
def test_adapters_on_linear_layers(values: dict[str, Any], targets: Any) -> None:
    assert not examine(values, learner={"lora": {"target_modules": targets}}).problems


def test_checkpoints_are_held_against_the_free_disk(values: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    size = read_model_size(Path(values["model"]["path"]))
    assert size is not None
    one = 16 * size.num_parameters  # float32: the model twice, and Adam's two moments
    monkeypatch.setattr("raylign.jobs.checks.plan.disk_space", lambda _: (3 * one, 0.5))
    assert not examine(values, checkpoints={"every_steps": 10, "keep_last": 2}).problems
    problem = only_problem(examine(values, checkpoints={"every_steps": 10, "keep_last": 3}))
    assert "4 checkpoints" in problem and "checkpoints.keep_last = 3" in problem
    assert not examine(values, checkpoints={"every_steps": 0, "keep_last": 9}).problems  # one, at the end


def test_a_run_folder_that_cannot_be_written(
    values: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    assert "is a link to" in only_problem(examine(values, folder=tmp_path / "link" / "run"))
    (tmp_path / "file").write_text("")
    assert "is a file" in only_problem(examine(values, folder=tmp_path / "file" / "run"))
    assert "cannot be written" in only_problem(examine(values, folder=Path("/proc/run")))
    monkeypatch.setattr("tempfile.NamedTemporaryFile", refuse)
    assert "cannot be written (Permission denied in" in only_problem(examine(values))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"checkpoints": {"every_steps": 30}}, "checkpoints.every_steps is 30 and the run has 20 steps"),
        ({"evaluation": {"every_steps": 5}}, "evaluation.every_steps is 5 and nothing is held out"),
        ({"learner": {"warmup_steps": 20}}, "learner.warmup_steps is 20 and the run has 20 steps"),
        ({"evaluation": {"rewards": [{"name": "numeric"}]}}, "evaluation.rewards is set and evaluation.data is empty"),
    ],
)
def test_a_setting_that_never_acts_is_a_warning(values: dict[str, Any], changes: dict[str, Any], words: str) -> None:
    findings = examine(values, num_steps=20, **changes)
    assert not findings.problems
    assert [warning for warning in findings.warnings if words in warning]


def test_defaults_that_do_nothing_in_a_short_run_are_no_warning(values: dict[str, Any]) -> None:
    assert not [warning for warning in examine(values, num_steps=20).warnings if "the run has" in warning]


def test_engines_that_would_never_generate_are_named() -> None:
    online = BdrOnlineConfig(online_warmup_steps=5000)
    assert "no answer is ever generated" in next(online.idle_settings(3500))
    assert not list(online.idle_settings(5001))
    sail = SailConfig.model_validate({"ddp": {"share": 0.0, "coefficient": 0.2}})
    assert "algorithm.ddp.share is 0" in next(sail.idle_settings(10))


def test_warnings_are_said_at_the_start_too(values: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    check_before_start(TrainConfig.model_validate(values | {"num_steps": 20, "evaluation": {"every_steps": 5}}))
    assert "warning: evaluation.every_steps is 5 and nothing is held out" in capsys.readouterr().err


def test_shared_memory_that_is_too_small_is_said_before_the_start(values: dict[str, Any]) -> None:
    small = replace(TWO_CORES, shared_memory_bytes=40 << 20)
    problem = only_problem(examine(values, small))
    assert problem.startswith("/dev/shm has 40 MiB free, and Ray's objects (cluster.object_store_mib)")
    assert examine(values, small, cluster={"address": "10.0.0.1:6379"}).problems == []


def test_a_python_that_ray_cannot_start_is_a_problem(values: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/my clone/python")
    assert "cuts that path apart" in only_problem(examine(values))
