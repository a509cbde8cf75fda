"""A user's own function, right and wrong in every way that a user's function can be."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from raylign.rewards.base import Item, Reward, RewardFailure, Score
from raylign.rewards.function import FunctionConfig
from raylign.rewards.registry import build_reward
from tests.patience import HANGS_S

Build = Callable[..., Reward]
HEAD = "import math, os, sys, time\ndef reward(completions, prompt, references, row):\n"


@pytest.fixture
def build(tmp_path: Path) -> Iterator[Build]:
    """Builds the `function` reward with the given source; closed afterwards."""
    built: list[Reward] = []

    def build(source: str, function: str = "reward", **options: float) -> Reward:
        (tmp_path / "mine.py").write_text(source)
        built.append(build_reward(FunctionConfig(path=f"{tmp_path}/mine.py:{function}", **options)))
        return built[-1]

    yield build
    for reward in built:
        reward.close()


def kinds(scores: list[Score]) -> list[str | float]:
    return [score.kind if isinstance(score, RewardFailure) else score for score in scores]


def test_function_gets_the_group_and_its_numbers_come_back(build: Build) -> None:
    reward = build(HEAD + "    return [len(c) + len(prompt) + row['bonus'] + (c in references) for c in completions]")
    item = Item("pp", ("a", "bb"), ("a",), {"bonus": 0.5})
    assert reward.score([item, item]) == [[4.5, 4.5]] * 2
    assert reward.score([]) == []


def test_function_may_give_numpy_numbers_and_take_only_what_it_needs(build: Build) -> None:
    source = "import numpy as np\ndef reward(completions, **_):\n    return np.arange(len(completions)) > 0"
    assert build(source).score([Item("p", ("a", "b"))]) == [[0.0, 1.0]]


def test_function_may_import_a_module_beside_its_file(build: Build, tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text("BONUS = 7")
    reward = build("import beside\ndef reward(completions, **_):\n    return [beside.BONUS for _ in completions]")
    assert reward.score([Item("p", ("a",))]) == [[7.0]]


def test_printing_does_not_disturb_the_scores(build: Build) -> None:
    reward = build(HEAD + "    print('noise' * 10000)\n    sys.stdout.flush()\n    return [1.0]")
    assert reward.score([Item("p", ("a",))]) == [[1.0]]


def test_missing_file_is_reported_when_built(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"reward 'function': no file .*nothing\.py"):
        build_reward(FunctionConfig(path=f"{tmp_path}/nothing.py:reward"))


def test_missing_function_is_reported_with_those_there_are(build: Build) -> None:
    with pytest.raises(ValueError, match=r"has no function 'rewrad'; it has: helper, reward"):
        build("def helper(): ...\ndef reward(completions, prompt, references, row): ...", function="rewrad")


def test_import_error_is_reported_with_its_line(build: Build) -> None:
    with pytest.raises(ValueError, match=r"does not import: ModuleNotFoundError: .*'nowhere' \(mine\.py, line 2\)"):
        build("x = 1\nimport nowhere")
    with pytest.raises(ValueError, match=r"does not import: SyntaxError: .*mine\.py, line 2"):
        build("x = 1\ndef reward(:")
    with pytest.raises(ValueError, match="does not import: SystemExit: 3"):
        build("raise SystemExit(3)")


def test_function_with_other_arguments_is_reported(build: Build) -> None:
    with pytest.raises(ValueError, match=r"cannot be called with \(completions, prompt, references, row\)"):
        build("def reward(texts): return [1.0 for _ in texts]")


def test_crash_while_importing_is_reported(build: Build) -> None:
    with pytest.raises(ValueError, match="ended with exit code 5 while it started"):
        build("import os; os._exit(5)")


def test_hanging_import_is_reported_at_its_deadline(build: Build) -> None:
    with pytest.raises(ValueError, match=r"did not start within 1 s \(start_deadline_s\)"):
        build("while True: pass", start_deadline_s=1.0)


@pytest.mark.parametrize(
    ("body", "kind", "message"),
    [
        ("raise KeyError('x')", "exception", "KeyError: 'x' (mine.py, line 4)"),
        ("sys.exit(2)", "exception", "SystemExit"),
        ("return [math.nan] * 2", "nan", "the score is nan"),
        ("return [math.inf] * 2", "nan", "the score is inf"),
        ("return [1.0]", "wrong_count", "1 scores for 2 completions"),
        ("return [1.0] * 3", "wrong_count", "3 scores for 2 completions"),
        ("return 1.0", "exception", "gave back float, expected a list of 2 numbers"),
        ("return None", "exception", "gave back NoneType"),
        ("return ['good', 'bad']", "exception", "no number but str"),
        ("time.sleep(6000)", "timeout", "no score within 3 s"),
        ("while True: pass", "timeout", "no score within 3 s"),
        ("os._exit(3)", "crash", "ended with exit code 3"),
        ("os.kill(os.getpid(), 11)", "crash", "was ended by signal 11"),
    ],
)
def test_a_group_that_goes_wrong_fails_alone(build: Build, body: str, kind: str, message: str) -> None:
    source = HEAD + f"    if prompt == 'bad':\n        {body}\n    return [1.0] * len(completions)"
    # the good groups, which need no time, have to keep the deadline that the bad one breaks
    reward = build(source, deadline_s=3 if kind == "timeout" else HANGS_S)
    good, bad = Item("good", ("a", "b")), Item("bad", ("a", "b"))
    first, failed, last = reward.score([good, bad, good])
    assert first == last == [1.0, 1.0]
    assert kinds(failed) == [kind, kind]
    assert all(isinstance(score, RewardFailure) and message in score.message for score in failed)
    assert reward.score([good]) == [[1.0, 1.0]]


def test_one_nan_in_a_group_fails_one_completion(build: Build) -> None:
    reward = build(HEAD + "    return [1.0, math.nan, 2.0]")
    assert kinds(reward.score([Item("p", ("a", "b", "c"))])[0]) == [1.0, "nan", 2.0]


def test_function_that_stops_importing_fails_the_rest_of_the_call_at_once(build: Build, tmp_path: Path) -> None:
    reward = build(HEAD + "    os._exit(1)")
    (tmp_path / "mine.py").write_text("import nowhere")
    scores = reward.score([Item("p", ("a",))] * 20)
    assert [kinds(group) for group in scores] == [["crash"]] * 20
    assert isinstance(scores[-1][0], RewardFailure) and "nowhere" in scores[-1][0].message


def test_two_processes_score_side_by_side(build: Build, tmp_path: Path) -> None:
    """Each call waits until the other process has one too: one process alone would never answer."""
    source = HEAD + (
        f"    folder = '{tmp_path}/' + prompt\n    os.makedirs(folder, exist_ok=True)\n"
        "    open(f'{folder}/{os.getpid()}', 'w').close()\n"
        "    while len(os.listdir(folder)) < 2: time.sleep(0.01)\n    return [float(os.getpid())]"
    )
    reward = build(source, num_processes=2, deadline_s=HANGS_S)
    scores = reward.score([Item(prompt, ("a",)) for prompt in ("first", "first", "second", "second")])
    process_ids = {scores_G[0] for scores_G in scores}
    assert len(process_ids) == 2 and os.getpid() not in process_ids
