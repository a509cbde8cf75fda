"""What an engine's processes find in their environment: quiet where nothing is wrong, and the user's own words kept."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from unittest.mock import patch

import pytest

from raylign.rollout.engine.process import set_environment

WARNS = """
import warnings
def warn(module, category):
    warnings.warn_explicit("old", category, "file.py", 1, module=module)
warn("vllm.triton_utils.dispatcher", FutureWarning)
warn("vllm.triton_utils.dispatcher_of_another", FutureWarning)
warn("vllm.triton_utils.dispatcher", UserWarning)
"""


@pytest.fixture(autouse=True)
def _environment() -> Iterator[None]:
    with patch.dict(os.environ), warnings.catch_warnings():
        for key in ("PYTHONWARNINGS", "TORCH_LOGS", "TORCH_CPP_LOG_LEVEL"):
            os.environ.pop(key, None)
        yield


def test_only_the_known_warning_is_off_in_the_processes_that_an_engine_starts() -> None:
    set_environment("a/model", "0")
    told = subprocess.run([sys.executable, "-c", WARNS], capture_output=True, text=True, check=True).stderr
    assert [line for line in told.splitlines() if "Warning" in line] == [
        "file.py:1: FutureWarning: old",
        "file.py:1: UserWarning: old",
    ]


def test_only_the_known_warning_is_off_in_the_process_that_owns_the_engine() -> None:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        set_environment("a/model", "0")
        exec(WARNS, {})
    assert [warning.category for warning in told] == [FutureWarning, UserWarning]


def test_what_the_user_has_set_stays() -> None:
    os.environ |= {"PYTHONWARNINGS": "error::UserWarning", "TORCH_LOGS": "+dynamo"}
    set_environment("a/model", "0")
    set_environment("a/model", "0")
    assert os.environ["PYTHONWARNINGS"] == "error::UserWarning,ignore::FutureWarning:vllm.triton_utils.dispatcher"
    assert os.environ["TORCH_LOGS"] == "+dynamo"


def test_on_a_gpu_torch_keeps_its_voice() -> None:
    set_environment("a/model", None)
    assert "TORCH_LOGS" not in os.environ
    assert "TORCH_CPP_LOG_LEVEL" not in os.environ
