"""The fake engine keeps the promises of the real one."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from raylign.rollout.engine.fake_engine import END_TOKEN, FakeEngine
from raylign.rollout.sample import Group, Prompt, VersionSpan
from raylign.rollout.sampling import SamplingConfig
from tests.patience import HANGS_S

PROMPT = Prompt("row-0", 0, "2 + 3 =", np.array([1, 2], dtype=np.int32), references=("5",))


def echo(prompt: Prompt, seed: int) -> str:
    return f"{prompt.text} {seed}"


def test_answers_are_a_function_of_prompt_and_seed() -> None:
    async def answers() -> tuple[Group, Group]:
        engine = FakeEngine(echo)
        await engine.start()
        sampling = SamplingConfig(num_completions=3)
        return await engine.generate(PROMPT, sampling, 7), await engine.generate(PROMPT, sampling, 7)

    one, again = asyncio.run(answers())
    assert [each.text for each in one.completions] == ["2 + 3 = 7", "2 + 3 = 8", "2 + 3 = 9"]
    for left, right in zip(one.completions, again.completions, strict=True):
        assert np.array_equal(left.logps, right.logps) and (left.logps < 0).all()
        assert left.token_ids[-1] == END_TOKEN and left.stop_reason == "stop"


def test_the_token_limit_cuts_an_answer() -> None:
    async def answer() -> Group:
        engine = FakeEngine(echo)
        await engine.start()
        return await engine.generate(PROMPT, SamplingConfig(num_completions=1, max_tokens=3), 0)

    (completion,) = asyncio.run(answer()).completions
    assert completion.text == "2 +" and completion.stop_reason == "length"


def test_versions_are_labelled_token_by_token_across_a_pause() -> None:
    async def answer() -> Group:
        engine = FakeEngine(echo, token_s=0.01)
        await engine.start()
        running = asyncio.create_task(engine.generate(PROMPT, SamplingConfig(num_completions=1), 0))
        await asyncio.sleep(0.035)
        await engine.pause()
        await asyncio.sleep(0.03)
        assert not running.done()
        await engine.commit_weight_version(4)
        await engine.resume()
        return await asyncio.wait_for(running, HANGS_S)

    (completion,) = asyncio.run(answer()).completions
    first, second = completion.version_spans
    assert first == VersionSpan(0, 0, first.end) and second == VersionSpan(4, first.end, len(completion.token_ids))
    assert 1 <= first.end <= 5


def test_a_stopped_engine_gives_failures() -> None:
    async def answer() -> Group:
        engine = FakeEngine(echo, token_s=0.01)
        await engine.start()
        running = asyncio.create_task(engine.generate(PROMPT, SamplingConfig(), 0))
        await asyncio.sleep(0.02)
        await engine.stop()
        return await asyncio.wait_for(running, HANGS_S)

    group = asyncio.run(answer())
    assert not group.completions and group.failures[0].kind == "engine"


def test_an_engine_in_the_middle_of_an_update_does_not_serve() -> None:
    async def answer() -> Group:
        engine = FakeEngine(echo)
        await engine.start()
        await engine.start_weight_update()
        with pytest.raises(RuntimeError, match="open already"):
            await engine.start_weight_update()
        await engine.abort_weight_update("because")
        return await engine.generate(PROMPT, SamplingConfig(), 0)

    assert "no complete version" in asyncio.run(answer()).failures[0].message
