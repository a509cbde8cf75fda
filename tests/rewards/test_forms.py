"""Reward functions as people bring them: each form of the field, with no wrapper to write."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raylign.rewards.base import Graded, Item, RewardFailure, Score
from raylign.rewards.function import FunctionConfig, FunctionReward
from raylign.rewards.registry import build_reward
from raylign.rewards.scoring import Scorer
from raylign.rollout.experience.schema import batch_to_groups, groups_to_batch
from raylign.rollout.sample import Completion, Failure, Group, Prompt

CHAT = [{"role": "user", "content": "2+2?"}]
ITEM = Item("2+2?", ("4", "five"), ("4",), {"answer": "4", "level": 2})
CHAT_ITEM = Item("<user>2+2?", ("4", "five"), ("4",), {"prompt": CHAT, "answer": "4"}, messages=(CHAT[0],))


def loaded(tmp_path: Path, source: str, name: str = "mine.py:reward", **options: Any) -> FunctionReward:
    (tmp_path / "mine.py").write_text(source)
    return FunctionReward(FunctionConfig(path=f"{tmp_path}/{name}", **options))


FORMS = [
    ("a group", "def reward(completions, **_): return [float(c == '4') for c in completions]"),
    (
        "TRL",
        "def reward(prompts, completions, answer, **kwargs):\n"
        "    return [float(c == a) for c, a in zip(completions, answer)]",
    ),
    (
        "TRL",
        "def reward(completions, level, **kw):\n"
        "    return [float(c == '4' and n == 2) for c, n in zip(completions, level)]",
    ),
    (
        "verl:",
        "def reward(data_source, solution_str, ground_truth, extra_info=None):\n"
        "    return float(solution_str == ground_truth and extra_info['level'] == 2)",
    ),
    (
        "verl, batched",
        "def reward(data_sources, solution_strs, ground_truths, extra_infos):\n"
        "    return [float(a == b) for a, b in zip(solution_strs, ground_truths)]",
    ),
    (
        "OpenRLHF",
        "def reward(queries, prompts, labels):\n"
        "    return [float(q[len(p):] == label) for q, p, label in zip(queries, prompts, labels)]",
    ),
    (
        "OpenRLHF",
        "def reward(queries, prompts, labels, **kw):\n"
        "    return {'rewards': [float(q.endswith('4')) for q in queries], 'extra_logs': {}}",
    ),
    ("one completion", "def reward(completion, reference): return float(completion == reference)"),
    ("one completion", "def reward(anything: str) -> float: return float(anything == '4')"),
    ("async", "async def reward(completion, answer): return float(completion == answer)"),
    ("async", "async def reward(completions, **_): return [float(c == '4') for c in completions]"),
    (
        "one completion",
        "class R:\n    def __call__(self, completion): return float(completion == '4')\nreward = R()",
    ),
    ("one completion", "class reward:\n    def __call__(self, completion): return float(completion == '4')"),
    (
        "one completion",
        "class R:\n    def score(self, completion): return float(completion == '4')\nreward = R().score",
    ),
    (
        "one completion",
        "import functools\ndef f(completion, answer, at): return float(completion == answer and at == 7)\n"
        "reward = functools.partial(f, at=7)",
    ),
    (
        "one completion",
        "def plain(f):\n    def wrapper(*args, **kwargs):\n        return f(*args, **kwargs)\n    return wrapper\n"
        "@plain\ndef reward(completion): return float(completion == '4')",
    ),
    ("a group", "def reward(completions, answer=None): return [float(c == a) for c, a in zip(completions, answer)]"),
    ("a group", "def reward(completions, **kw): return [float(c == a) for c, a in zip(completions, kw['answer'])]"),
    ("a group", "def reward(completions, /, **kw): return [float(c == '4') for c in completions]"),
    ("a group", "async def reward(completions, **kw):\n    for c in completions: yield float(c == '4')"),
    ("one completion", "def reward(pred, answer, /): return float(pred == answer)"),
    (
        "one completion",
        "class Base:\n    def __call__(self, completion): return float(completion == '4')\nclass reward(Base): pass",
    ),
    (
        "one completion",
        "import asyncio\ndef reward(completion):\n    async def asked(): return float(completion == '4')\n"
        "    return asyncio.run(asked())",
    ),
    (
        "TRL",
        "def reward(completions, trainer_state, log_metric=None, **kw):\n"
        "    return [float(c == '4') for c in completions]",
    ),
    ("TRL", "def reward(completions, solution, **_): return [float(c[0]['content'] == '4') for c in completions]"),
    (
        "a group",
        "import argparse\nargparse.ArgumentParser().parse_args()\n"
        "def reward(completions, **_): return [float(c == '4') for c in completions]",
    ),
    ("async", "class R:\n    async def __call__(self, completion): return float(completion == '4')\nreward = R()"),
]


@pytest.mark.parametrize(("form", "source"), FORMS)
def test_form_is_found_by_the_parameters_and_scores(tmp_path: Path, form: str, source: str) -> None:
    reward = loaded(tmp_path, source)
    assert form in reward.form
    assert reward.score([ITEM, ITEM]) == [[1.0, 0.0]] * 2
    reward.close()


def test_trl_completions_are_chats_where_the_data_are_chats(tmp_path: Path) -> None:
    trl = "def reward(prompts, completions, **kw):\n    assert prompts[0][0]['content'] == '2+2?'\n"
    bare = "def reward(completions, **kw):\n"
    for head in (trl, bare):
        reward = loaded(tmp_path, head + "    return [float(c[0]['content'] == '4') for c in completions]")
        assert reward.score([CHAT_ITEM]) == [[1.0, 0.0]]
        reward.close()


def test_none_leaves_a_sample_out_of_the_sum_and_is_no_failure(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "def reward(completions, **_): return [None, 3.0]\ndef one(completion): return 1.0"
    )
    scorer = Scorer(
        [FunctionConfig(path=f"{tmp_path}/mine.py:reward"), FunctionConfig(path=f"{tmp_path}/mine.py:one", weight=0.5)]
    )
    (scored,) = scorer.score([ITEM])
    assert scored.total.tolist() == [0.5, 3.5]
    assert scored.failures == () and scored.num_not_applicable == 1
    assert list(scorer.forms) == ["function", "function_2"] and "one completion" in scorer.forms["function_2"]
    scorer.close()


@pytest.mark.parametrize(
    "source",
    [
        "def reward(completion): return {'score': 0.5, 'format': 1, 'note': 'text'}",
        "def reward(completion): return (0.5, {'format': 1})",
        "def reward(completions, **_): return [{'score': 0.5, 'format': 1}] * 2",
        "def reward(queries, prompts, labels): return {'rewards': [0.5] * 2, 'extra_logs': {'format': [1, 1]}}",
        "def reward(queries, prompts, labels): return {'rewards': [0.5] * 2, 'extra_logs': {'format': 1.0}}",
        "from collections import namedtuple\nS = namedtuple('S', 'score format')\n"
        "def reward(completions, **_): return [S(0.5, 1)] * 2",
        "from dataclasses import dataclass\n@dataclass\nclass S:\n    score: float\n    format: float\n"
        "def reward(completion): return S(0.5, 1)",
        "def reward(completions, log_metric, **_):\n    log_metric('format', 1)\n    return [0.5] * 2",
        "def reward(completions, log_extra, **_):\n    log_extra('format', [1, 1])\n    log_extra('why', ['a', 'b'])\n"
        "    return [0.5] * 2",
    ],
)
def test_further_numbers_become_parts_and_count_in_no_total(tmp_path: Path, source: str) -> None:
    (tmp_path / "mine.py").write_text(source)
    scorer = Scorer([FunctionConfig(path=f"{tmp_path}/mine.py:reward")])
    (scored,) = scorer.score([ITEM])
    scorer.close()
    assert list(scored.rewards) == ["function", "function/format"]
    np.testing.assert_array_equal(scored.rewards["function/format"], [1, 1])
    assert scored.total.tolist() == [0.5, 0.5]


def test_async_completions_are_awaited_side_by_side_up_to_the_limit(tmp_path: Path) -> None:
    source = (
        "import asyncio\nrunning = most = 0\n"
        "async def reward(completion):\n    global running, most\n    running += 1\n    most = max(most, running)\n"
        "    for _ in range(5):\n        await asyncio.sleep(0)\n    running -= 1\n    return float(most)"
    )
    reward = loaded(tmp_path, source, max_concurrent=3)
    assert max(reward.score([Item("p", tuple("abcdefgh"))])[0]) == 3  # type: ignore[type-var]
    reward.close()


@pytest.mark.parametrize("name", ["math.py", "glob.py", "json.py", "random.py"])
def test_a_file_named_like_a_standard_module_is_a_reward_like_any_other(tmp_path: Path, name: str) -> None:
    source = (
        "def reward(completions, **_):\n    import statistics, fractions\n    return [statistics.mean([1.0, 3.0])] * 2"
    )
    (tmp_path / name).write_text(source)
    reward = build_reward(FunctionConfig(path=f"{tmp_path}/{name}:reward"))
    assert reward.score([ITEM]) == [[2.0, 2.0]]
    reward.close()


def test_relative_imports_and_module_paths_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "brought_rewards" / "inner"
    package.mkdir(parents=True)
    for folder in (package, package.parent):
        (folder / "__init__.py").write_text("")
    (package.parent / "shared.py").write_text("BONUS = 7.0")
    (package / "beside.py").write_text("from ..shared import BONUS")
    (package / "mine.py").write_text("from .beside import BONUS\ndef reward(completion): return BONUS")
    by_file = FunctionReward(FunctionConfig(path=f"{package}/mine.py:reward"))
    monkeypatch.chdir(tmp_path)
    by_module = FunctionReward(FunctionConfig(path="brought_rewards.inner.mine:reward"))
    assert by_file.score([ITEM]) == by_module.score([ITEM]) == [[7.0, 7.0]]
    with pytest.raises(ValueError, match=r"no module brought_rewards\.nothing"):
        FunctionReward(FunctionConfig(path="brought_rewards.nothing:reward"))


def test_a_method_that_is_named_by_its_class_gets_an_object(tmp_path: Path) -> None:
    source = "class R:\n    def score(self, completions): return [float(c == '4') for c in completions]"
    assert loaded(tmp_path, source, "mine.py:R.score").score([ITEM]) == [[1.0, 0.0]]


def test_what_rewards_do_not_get_is_refused_at_once_or_named(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match="needs `completion_ids`, and rewards here get texts, no token ids; give it a def"
    ):
        loaded(tmp_path, "def reward(completions, completion_ids, **kw): return [0.0] * 2")
    asks = "def reward(completions, trainer_state, **_): return [trainer_state.global_step for _ in completions]"
    (scores,) = loaded(tmp_path, asks).score([ITEM])
    assert "trainer_state.global_step is not known here" in words(scores)
    (scores,) = loaded(tmp_path, "def reward(completions, **_): return [1.0, 0.0], [0.5, 0.5]").score([ITEM])
    assert "gave back a tuple that begins with a list" in words(scores), "not two pairs of a score and a part"


def test_a_function_of_texts_gets_texts_where_the_data_are_chats(tmp_path: Path) -> None:
    source = "def reward(prompts, completions, **kw): return [float(c.strip() == '4') for c in completions]"
    assert loaded(tmp_path, source).score([CHAT_ITEM, CHAT_ITEM]) == [[1.0, 0.0]] * 2


def test_half_a_character_in_a_message_or_a_name_ends_no_run(tmp_path: Path) -> None:
    half = "'half ' + chr(0xd83d)"
    source = (
        f"def reward(completion):\n    if completion == '4': raise ValueError({half})\n"
        f"    return {{'score': 1, {half}: 2}}"
    )
    (tmp_path / "mine.py").write_text(source)
    scorer = Scorer([FunctionConfig(path=f"{tmp_path}/mine.py:reward")])
    (scored,) = scorer.score([ITEM])
    scorer.close()
    ids, logps = np.zeros(1, np.int32), np.zeros(1, np.float32)
    answer = Completion(ids, logps, (), "stop", "4")
    failures = tuple(Failure(each.kind, name, each.message) for name, each in scored.failures)
    group = Group(Prompt("0", 0, "q", ids), (answer,) * 2, scored.rewards, scored.total, failures)
    (kept,) = batch_to_groups(groups_to_batch([group]))
    assert "half \\ud83d" in kept.failures[0].message and list(kept.rewards) == ["function", "function/half \\ud83d"]


def words(scores: list[Score]) -> str:
    assert isinstance(scores[0], RewardFailure)
    return scores[0].message


def test_a_missing_column_and_a_missing_file_are_named(tmp_path: Path) -> None:
    (scores,) = loaded(tmp_path, "def reward(completions, solution_text): return [1.0] * 2").score([ITEM])
    assert "solution_text" in words(scores) and "columns: answer, level" in words(scores)
    (scores,) = loaded(tmp_path, "def reward(completion): return open('nowhere.txt')").score([ITEM])
    assert "nowhere.txt" in words(scores) and str(tmp_path) in words(scores)


def test_parts_and_none_come_through_the_process_of_the_reward(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "def reward(completion): return None if completion == '4' else {'score': 1, 'x': 2}"
    )
    reward = build_reward(FunctionConfig(path=f"{tmp_path}/mine.py:reward"))
    first, second = reward.score([ITEM])[0]
    reward.close()
    assert isinstance(first, RewardFailure) and first.kind == "not_applicable"
    assert isinstance(second, Graded) and second == 1.0 and second.parts == {"x": 2.0}


def test_a_slow_group_gets_a_process_to_itself_and_others_go_on(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import os, time\ndef reward(completions, prompt, **_):\n"
        "    while prompt == 'slow' and not os.path.exists(__file__ + '.go'):\n        time.sleep(0.01)\n"
        "    return [1.0] * len(completions)"
    )
    reward = build_reward(FunctionConfig(path=f"{tmp_path}/mine.py:reward", deadline_s=60))
    slow: list[list[list[Score]]] = []
    thread = threading.Thread(target=lambda: slow.append(reward.score([Item("slow", ("a",))])))
    thread.start()
    while len(reward._free) == 1:  # type: ignore[attr-defined]
        thread.join(0.01)
    assert reward.score([Item("quick", ("a",))] * 3) == [[1.0]] * 3
    assert thread.is_alive()
    (tmp_path / "mine.py.go").touch()
    thread.join(30)
    assert slow == [[[1.0]]]
    reward.close()
