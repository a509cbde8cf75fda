"""Every command of README.md is run by a test: here, or in the test that is named here.

The commands run as they are written, in their order, in a folder that looks like a clone after `make quickstart`; flags
that make them short are appended.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
from pathlib import Path

import pytest

from raylign.jobs.cli import run_command_line
from raylign.jobs.config.loading import load_config
from raylign.jobs.config.train import TrainConfig
from tests.patience import finished

ROOT = Path(__file__).parents[2]
RAYLIGN = ".venv/bin/raylign"

MADE_BY_MAKE = ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES")
FEW_ROWS = "--data.num_generated 500"
FEW_OF_BOTH = f"{FEW_ROWS} --evaluation.data.num_generated 500"

ON_A_HEAD = "tests/end_to_end/test_job_submit.py::"
SUBMITTED = f"{ON_A_HEAD}test_a_job_is_left_stopped_and_submitted_again_and_trains_with_the_uploaded_code"

RUN_HERE = {
    f"{RAYLIGN} doctor": "",
    f"{RAYLIGN} train --help": "",
    f"{RAYLIGN} plan --config jobs/recipes/grpo_arithmetic.yaml": FEW_OF_BOTH,
    f"{RAYLIGN} train --config jobs/recipes/grpo_arithmetic.yaml --num_steps 20 --name mine": f"{FEW_OF_BOTH} "
    "--evaluation.num_prompts 4 --rollout.prompts_per_step 4 --rollout.engine.kv_cache_gib 0.1 "
    "--learner.warmup_steps 0 --num_steps 1",
    f"{RAYLIGN} evaluate --model runs/mine --config jobs/recipes/evaluate_arithmetic.yaml": f"{FEW_ROWS} "
    "--num_prompts 8 --engine.kv_cache_gib 0.1",
    f"{RAYLIGN} report --folder runs/mine": "",
    f"{RAYLIGN} plan --config jobs/recipes/grpo_arithmetic.yaml --cluster cluster.yaml": "",
}
"""Command, and what is appended to make it short."""

TESTED_ELSEWHERE = {
    "make quickstart": "tests/end_to_end/test_quickstart.py::test_all_stages_end_in_a_report_and_a_summary",
    "make test": "tests/end_to_end/test_readme.py::test_make_calls_what_the_other_tests_run",
    f"{RAYLIGN} view runs": "tests/jobs/view/test_page.py::"
    "test_it_listens_on_this_machine_alone_and_says_what_it_cannot_do",
    "ray up cluster.yaml": "tests/packaging/test_cluster_yaml.py::test_ray_accepts_it_and_its_resources_need_no_guess",
    f"{RAYLIGN} doctor --cluster http://127.0.0.1:8265 --folder /mnt/shared/runs": f"{ON_A_HEAD}"
    "test_doctor_looks_at_every_node_of_a_cluster",
    f"{RAYLIGN} submit grpo_arithmetic --model.path Qwen/Qwen3-0.6B --folder /mnt/shared/runs/mine "
    "--cluster.gpus always --follow": SUBMITTED,
    f"{RAYLIGN} submit status": SUBMITTED,
    f"{RAYLIGN} submit logs --follow": SUBMITTED,
    f"{RAYLIGN} submit stop": SUBMITTED,
}


def commands() -> list[str]:
    """Lines of README's code blocks that a shell would run, without comments."""
    blocks = re.findall(r"```bash\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [" ".join(words) for line in lines if (words := shlex.split(line, comments=True))]


@pytest.fixture(scope="module")
def clone(start_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a newcomer's folder holds after the quickstart, as far as the commands need it."""
    folder = tmp_path_factory.mktemp("clone")
    (folder / ".venv").symlink_to(sys.prefix)
    for name in ("jobs", "src", "cluster.yaml"):
        (folder / name).symlink_to(ROOT / name)
    checkpoint = folder / load_config(TrainConfig, ["grpo_arithmetic"]).model.path
    checkpoint.parent.mkdir(parents=True)
    checkpoint.symlink_to(start_model)
    return folder


def test_no_command_is_untested() -> None:
    assert set(commands()) == set(RUN_HERE) | set(TESTED_ELSEWHERE)
    for place in TESTED_ELSEWHERE.values():
        file, _, name = place.partition("::")
        assert f"def {name}(" in (ROOT / file).read_text()


@pytest.mark.parametrize("command", [line for line in commands() if "--config" in line or "submit grpo" in line])
def test_a_command_means_what_it_says(
    command: str, clone: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As written, nothing appended: every flag is known and every recipe is there."""
    words = shlex.split(command)
    monkeypatch.chdir(clone)
    assert run_command_line([*words[1:], "--print-config"]) == 0
    assert "source: reasoning_gym:chain_sum" in capsys.readouterr().out


@pytest.mark.ray
def test_the_commands_work_one_after_the_other(clone: Path) -> None:
    printed = {}
    for command in (line for line in commands() if line in RUN_HERE):
        words = shlex.split(f"{command} {RUN_HERE[command]}")
        done = finished(words, cwd=clone)
        allowed = (0, 1) if "doctor" in command else (0,)  # 1: something is wrong with this machine
        assert done.returncode in allowed, f"{words}\n{done.stdout}\n{done.stderr}"
        printed[words[1] + " --cluster" * ("--cluster" in words)] = done.stdout
    assert "ready to start" in printed["plan"]
    assert "it fits" in printed["plan --cluster"]
    assert (clone / "runs/mine/metrics.jsonl").is_file()
    assert "evaluation/accuracy" in printed["evaluate"]
    assert Path(printed["report"].strip()) == clone / "runs/mine/report.html"


def test_the_quickstart_leaves_the_model_that_the_recipes_start_from() -> None:
    sft, grpo = load_config(TrainConfig, ["sft_arithmetic"]), load_config(TrainConfig, ["grpo_arithmetic"])
    assert sft.model.path == "runs/quickstart/model"
    assert grpo.model.path == f"runs/quickstart/sft/checkpoints/step-{sft.num_steps:06d}"


def test_make_calls_what_the_other_tests_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dry = ["make", "-n", "quickstart", "test", "SEED=7", "FLAVOUR=cpu"]
    outside = {key: value for key, value in os.environ.items() if key not in MADE_BY_MAKE}  # we may be run by make
    done = finished(dry, cwd=ROOT, env=outside)
    assert done.returncode == 0, done.stderr
    quickstart, tests = done.stdout.splitlines()[-2:]
    assert quickstart == ".venv/bin/raylign quickstart --seed 7"
    assert tests.startswith(".venv/bin/python -m pytest tests ")
    assert run_command_line([*shlex.split(quickstart)[1:], "--print-config"]) == 0
    assert "seed: 7" in capsys.readouterr().out
