"""math-verify and reasoning_gym through our interface, in their killable processes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import reasoning_gym

from raylign.rewards.base import Item, Reward, RewardFailure
from raylign.rewards.registry import build_reward
from raylign.rewards.verifiers import MathVerifyConfig, ReasoningGymConfig


@pytest.fixture(scope="module")
def math_verify() -> Iterator[Reward]:
    reward = build_reward(MathVerifyConfig())
    yield reward
    reward.close()


def test_equal_mathematics_in_other_spelling_is_right(math_verify: Reward) -> None:
    completions = (r"so $\frac{1}{2}$", "The answer is 0.5", r"\boxed{\frac{2}{4}}", r"$\frac{1}{3}$", "no idea")
    assert math_verify.score([Item("p", completions, ("1/2",))]) == [[1, 1, 1, 0, 0]]
    assert math_verify.score([Item("p", (r"$x^2+2x+1$", "$x+1$"), ("$(x+1)^2$",))]) == [[1, 0]]


def test_bare_latex_reference_is_read(math_verify: Reward) -> None:
    assert math_verify.score([Item("p", (r"\boxed{0.5}",), (r"\frac{1}{2}",))]) == [[1]]


def test_reference_that_is_no_mathematics_is_a_failure(math_verify: Reward) -> None:
    (failure,) = math_verify.score([Item("p", ("1",), ("",))])[0]
    assert isinstance(failure, RewardFailure) and failure.kind == "exception"


@pytest.mark.parametrize("task", ["chain_sum", "countdown", "word_sorting"])
def test_reasoning_gym_scores_as_its_own_data_set_does(task: str) -> None:
    dataset = reasoning_gym.create_dataset(task, size=3, seed=1)
    reward = build_reward(ReasoningGymConfig())
    items = []
    for entry in dataset:
        completions = (entry["answer"], f"<think>hm</think><answer>{entry['answer']}</answer>", "nonsense", "")
        items.append(Item(entry["question"], completions, (entry["answer"],), dict(entry)))
    scores = reward.score(items)
    reward.close()
    for entry, scores_G in zip(dataset, scores, strict=True):
        nonsense = dataset.score_answer("nonsense", entry)
        assert scores_G == [1.0, 1.0, pytest.approx(nonsense), pytest.approx(dataset.score_answer("", entry))]


def test_unknown_reasoning_gym_task_is_reported_when_built() -> None:
    with pytest.raises(ValueError, match="no task 'chain_sun'; did you mean 'chain_sum'"):
        build_reward(ReasoningGymConfig(task="chain_sun"))


def test_row_without_task_is_a_failure_that_says_what_to_set() -> None:
    reward = build_reward(ReasoningGymConfig())
    (failure,) = reward.score([Item("p", ("1",), row={"answer": "1"})])[0]
    reward.close()
    assert isinstance(failure, RewardFailure) and "set `task`" in failure.message


def test_the_last_box_decides_unless_a_set_is_asked_for(math_verify: Reward) -> None:
    text = r"I get \boxed{5}, but \boxed{6} is right."
    assert math_verify.score([Item("p", (text,), ("6",)), Item("p", (text,), ("5",))]) == [[1], [0]]
    assert math_verify.score([Item("p", (r"\boxed{1}, \boxed{2}",), (r"\{1,2\}",))]) == [[1]]
