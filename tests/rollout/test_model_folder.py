"""Models with code of their own are refused with the reason, and their code is never run, asked for or not."""

from __future__ import annotations

import ast
import json
import os
import pickle
import pty
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import raylign
from raylign.jobs.checks.memory_estimate import read_model_size
from raylign.learners.engines.config import LearnerConfig
from raylign.learners.model.policy_model import load_policy
from raylign.learners.model.scorer import load_scorer
from raylign.rewards.reward_model import RewardModel, RewardModelConfig
from raylign.rollout.model_folder import check_model_folder, load_tokenizer
from tests.conftest import MakeModel

MODELS = {"AutoModelForCausalLM", "AutoModelForSequenceClassification"}
LOADERS = {"AutoConfig", "AutoTokenizer", *MODELS}


def package_files() -> list[Path]:
    folder = Path(raylign.__file__).parent
    return [
        Path(root, file) for root, _, files in os.walk(folder, followlinks=True) for file in files if file[-3:] == ".py"
    ]


def with_own_code(model: Path, folder: Path, file: str, auto_map: Any, **changes: Any) -> Path:
    """A copy whose `file` names a class of evil.py, which leaves a trace when it is imported."""
    shutil.copytree(model, folder)
    content = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps({**content, "auto_map": auto_map, **changes}))
    (folder / "evil.py").write_text(
        f"import pathlib\npathlib.Path({str(folder / 'pwned')!r}).touch()\nclass Evil: pass"
    )
    return folder


def test_every_loader_says_that_no_code_of_a_model_is_trusted() -> None:
    calls = 0
    for file in package_files():
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            owner = node.func.value
            if (
                isinstance(owner, ast.Name)
                and owner.id in LOADERS
                and node.func.attr in ("from_pretrained", "from_config")
            ):
                calls += 1
                given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                assert given.get("trust_remote_code") == "False", f"{file}:{node.lineno}"
                if owner.id in MODELS and node.func.attr == "from_pretrained":
                    assert given.get("use_safetensors") == "True", f"{file}:{node.lineno}"
    assert calls >= 10


def test_weights_that_are_a_pickle_are_refused_and_not_opened(make_tiny_model: MakeModel, tmp_path: Path) -> None:
    folder = shutil.copytree(make_tiny_model("qwen3", tied=True), tmp_path / "m")
    for file in folder.glob("*.safetensors*"):
        file.unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Attack(folder / "pwned")))
    with pytest.raises(
        ValueError, match=r"weights are a pickle \(pytorch_model.bin\).*alone\. Convert it once: python"
    ):
        check_model_folder(folder)
    for load in (
        lambda: load_policy(str(folder), LearnerConfig(), 1.0, "padded", 0),
        lambda: load_scorer(str(folder), LearnerConfig(), "padded", 0),
        lambda: RewardModel(RewardModelConfig(model=str(folder))),
    ):
        with pytest.raises((ValueError, OSError)):
            load()
    assert not (folder / "pwned").exists()


def with_header(length: int, header: bytes) -> bytes:
    return length.to_bytes(8, "little") + header


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("config.json", b"{half", "config.json: not a model's config"),
        ("config.json", b"[" * 5000, "config.json: not a model's config"),
        ("config.json", b"[1]", "config.json: not a model's config: a list"),
        ("model.safetensors.index.json", b"[" * 5000, "not an index of weight files"),
        ("tokenizer.json", b"[" * 100_000, "the tokenizer does not load"),
        ("tokenizer.json", b"{half", "the tokenizer does not load"),
        ("model.safetensors", with_header(2**60, b"{}"), "it says that its header has 1,152,921,504,606,846,976 bytes"),
        ("model.safetensors", with_header(5, b"{half"), "its header cannot be read"),
        ("model.safetensors", with_header(5000, b"[" * 5000), "its header cannot be read"),
        ("model.safetensors", with_header(9, b'{"a": 1}'), "its header cannot be read"),
    ],
)
def test_files_of_a_model_that_cannot_be_read_are_named(
    make_tiny_model: MakeModel, tmp_path: Path, name: str, content: bytes, said: str
) -> None:
    folder = shutil.copytree(make_tiny_model("qwen3", tied=True), tmp_path / "m")
    (folder / name).write_bytes(content)
    with pytest.raises(ValueError, match=said) as found:
        check_model_folder(folder)
        load_tokenizer(folder)
        read_model_size(folder)
    assert str(folder) in str(found.value)


class Attack:
    """Leaves a trace when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self._trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self._trace}",)


def test_a_model_of_its_own_code_is_refused(make_tiny_model: MakeModel, tmp_path: Path) -> None:
    model = make_tiny_model("qwen3", tied=True)
    auto_map = {"AutoConfig": "evil.Evil", "AutoModelForCausalLM": "evil.Evil"}
    folder = with_own_code(model, tmp_path / "m", "config.json", auto_map, model_type="evil")
    with pytest.raises(ValueError, match=r"its model is code of its own \(evil.Evil\), which raylign never runs"):
        check_model_folder(folder)
    assert not (folder / "pwned").exists()


def test_a_known_model_that_names_code_too_is_taken_without_it(make_tiny_model: MakeModel, tmp_path: Path) -> None:
    auto_map = {"AutoModelForCausalLM": "evil.Evil"}
    folder = with_own_code(make_tiny_model("qwen3", tied=True), tmp_path / "m", "config.json", auto_map)
    check_model_folder(folder)
    assert not (folder / "pwned").exists()


def test_code_of_a_tokenizer_is_never_run(make_tiny_model: MakeModel, tmp_path: Path) -> None:
    auto_map = {"AutoTokenizer": ["evil.Evil", None]}
    model = make_tiny_model("qwen3", tied=True)
    folder = with_own_code(model, tmp_path / "m", "tokenizer_config.json", auto_map, tokenizer_class="Evil")
    tokenizer = load_tokenizer(folder)  # tokenizer.json says all that is needed
    assert tokenizer.encode("2 + 3") == load_tokenizer(model).encode("2 + 3")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "evil"}))
    (folder / "tokenizer.json").rename(folder / "tokenizer.model")
    with pytest.raises(ValueError, match=r"its tokenizer is code of its own \(evil.Evil\), which raylign never runs"):
        load_tokenizer(folder)
    assert not (folder / "pwned").exists()


def test_nobody_is_asked_on_the_terminal(make_tiny_model: MakeModel, tmp_path: Path) -> None:
    auto_map = {"AutoConfig": "evil.Evil", "AutoModelForCausalLM": "evil.Evil"}
    model = make_tiny_model("qwen3", tied=True)
    folder = with_own_code(model, tmp_path / "m", "config.json", auto_map, model_type="evil")
    (folder / "tokenizer_config.json").write_text(json.dumps({"auto_map": {"AutoTokenizer": ["evil.Evil", None]}}))
    ours, theirs = pty.openpty()
    os.write(ours, b"y\ny\ny\n")
    words = ["plan", "--model.path", str(folder), "--algorithm.name", "sft", "--folder", str(tmp_path / "run")]
    started = time.monotonic()
    process = subprocess.run(
        [sys.executable, "-m", "raylign.jobs", *words], stdin=theirs, capture_output=True, text=True, timeout=120
    )
    os.close(ours)
    os.close(theirs)
    assert process.returncode == 2, process.stderr
    assert "code of its own (evil.Evil), which raylign never runs" in " ".join(process.stdout.split())
    assert "Do you wish" not in process.stdout + process.stderr
    assert not (folder / "pwned").exists()
    assert time.monotonic() - started < 120
