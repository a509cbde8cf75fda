"""The real vLLM engine on CPU: evidence for training, seeds, stop strings, failures, processes that end."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pytest

from raylign.rollout.engine.base import EngineDiedError, request_seed
from raylign.rollout.engine.config import EngineConfig
from raylign.rollout.engine.vllm_engine import VllmEngine
from raylign.rollout.sample import ENGINE_DIED, Completion, Group, Prompt, VersionSpan
from raylign.rollout.sampling import SamplingConfig
from raylign.rollout.weights.buckets import SharedMemorySender
from tests.patience import HANGS_S, is_gone, wait_until

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("warm_engines")]


@pytest.fixture(scope="module")
def engine(make_tiny_model, runner: asyncio.Runner) -> Iterator[VllmEngine]:
    engine = VllmEngine(
        str(make_tiny_model("qwen2", tied=True)),
        EngineConfig(max_model_len=128, kv_cache_gib=0.1),
        weight_backend="shared_memory",
    )
    runner.run(engine.start())
    yield engine
    runner.run(engine.stop())


@pytest.fixture(scope="module")
def tokenizer(make_tiny_model):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(make_tiny_model("qwen2", tied=True))


def a_prompt(tokenizer, text: str = "what is 3 + 4?", ordinal: int = 0) -> Prompt:
    return Prompt(f"row-{ordinal}", ordinal, text, np.asarray(tokenizer.encode(text), dtype=np.int32))


def reference_logps(model, prompt: Prompt, completion: Completion, temperature: float) -> np.ndarray:
    """One plain forward pass over prompt and completion."""
    import torch

    token_ids = torch.tensor(np.concatenate([prompt.token_ids, completion.token_ids])[None].astype(np.int64))
    with torch.no_grad():
        logits = model(token_ids).logits[0].float() / temperature
    logps = torch.log_softmax(logits, -1)[len(prompt.token_ids) - 1 : -1]
    return logps.gather(1, token_ids[0, len(prompt.token_ids) :, None])[:, 0].numpy()


def same(left: Group, right: Group) -> bool:
    return all(
        np.array_equal(one.token_ids, other.token_ids) and np.array_equal(one.logps, other.logps)
        for one, other in zip(left.completions, right.completions, strict=True)
    )


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probs_are_those_of_a_plain_forward_pass(make_tiny_model, engine, runner, tokenizer, temperature) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(make_tiny_model("qwen2", tied=True), dtype="float32")
    prompt = a_prompt(tokenizer)
    sampling = SamplingConfig(num_completions=8, max_tokens=40, temperature=temperature)
    group = runner.run(engine.generate(prompt, sampling, 3))
    differences = np.concatenate(
        [reference_logps(model, prompt, each, temperature) - each.logps for each in group.completions]
    )
    assert np.abs(differences).mean() < 1e-5, np.abs(differences).mean()


def test_a_group_is_complete_and_its_completions_differ(engine, runner, tokenizer) -> None:
    group = runner.run(engine.generate(a_prompt(tokenizer), SamplingConfig(num_completions=8, max_tokens=12), 1))
    assert len(group.completions) == 8 and not group.failures and group.timings_s["generate"] > 0
    assert len({tuple(each.token_ids) for each in group.completions}) == 8
    for each in group.completions:
        assert each.token_ids.dtype == np.int32 and each.logps.dtype == np.float32
        assert each.version_spans == (VersionSpan(0, 0, len(each.token_ids)),)
        assert each.text == tokenizer.decode(each.token_ids, skip_special_tokens=True)
        if each.stop_reason == "length":
            assert len(each.token_ids) == 12


def test_the_end_token_stays_in_the_completion_and_out_of_the_text(engine, runner, tokenizer) -> None:
    sampling = SamplingConfig(num_completions=64, max_tokens=100, temperature=2.0)
    group = runner.run(engine.generate(a_prompt(tokenizer), sampling, 2))
    ended = [each for each in group.completions if each.stop_reason == "stop"]
    assert ended, "no completion of this random model ended"
    for each in ended:
        assert each.token_ids[-1] == tokenizer.eos_token_id
        assert tokenizer.eos_token not in each.text


def test_one_seed_gives_one_result_whatever_else_runs(engine, runner, tokenizer) -> None:
    sampling = SamplingConfig(num_completions=4, max_tokens=30)
    prompts = [a_prompt(tokenizer, f"what is {number} + 5?", number) for number in range(8)]

    async def together() -> list[Group]:
        return await asyncio.gather(
            *(engine.generate(each, sampling, request_seed(7, each.ordinal)) for each in prompts)
        )

    groups = runner.run(together())
    alone = runner.run(engine.generate(prompts[3], sampling, request_seed(7, 3)))
    other = runner.run(engine.generate(prompts[3], sampling, request_seed(8, 3)))
    for one, again in zip(groups[3].completions, alone.completions, strict=True):
        assert np.array_equal(one.token_ids, again.token_ids)
    assert not same(alone, other)


def test_request_seeds_of_neighbours_lie_further_apart_than_a_group() -> None:
    seeds = sorted(request_seed(run, ordinal) for run in range(3) for ordinal in range(3000))
    assert min(np.diff(np.array(seeds, dtype=object))) > 1024
    assert seeds[0] >= 0 and seeds[-1] < 2**62


def test_a_stop_string_ends_the_text_before_it(engine, runner, tokenizer) -> None:
    sampling = SamplingConfig(num_completions=16, max_tokens=100, stop=["a", "3"])
    group = runner.run(engine.generate(a_prompt(tokenizer), sampling, 5))
    stopped = [each for each in group.completions if each.stop_reason == "stop"]
    assert stopped
    for each in stopped:
        assert "a" not in each.text and "3" not in each.text
        assert len(each.logps) == len(each.token_ids)


def test_greedy_is_for_single_completions(engine, runner, tokenizer) -> None:
    one = runner.run(engine.generate(a_prompt(tokenizer), SamplingConfig(num_completions=1, temperature=0), None))
    again = runner.run(engine.generate(a_prompt(tokenizer), SamplingConfig(num_completions=1, temperature=0), 5))
    assert np.array_equal(one.completions[0].token_ids, again.completions[0].token_ids)
    with pytest.raises(ValueError, match="num_completions"):
        runner.run(engine.generate(a_prompt(tokenizer), SamplingConfig(num_completions=2, temperature=0), None))


def test_a_prompt_without_room_is_refused_by_name(engine, runner, tokenizer) -> None:
    prompt = a_prompt(tokenizer, "1 " * 200)
    with pytest.raises(ValueError, match=r"row-0 .*max_model_len = 128"):
        runner.run(engine.generate(prompt, SamplingConfig(), None))


def num_tokens_so_far(engine: VllmEngine) -> int:
    """Of the running completion that is furthest; nothing tells it from outside."""
    states = engine._llm.output_processor.request_states.values()
    return max((state.detokenizer.num_output_tokens() for state in states), default=0)


def test_paused_requests_wait_and_go_on_unchanged(engine, runner, tokenizer) -> None:
    sampling = SamplingConfig(num_completions=4, max_tokens=100)
    undisturbed = runner.run(engine.generate(a_prompt(tokenizer), sampling, 11))

    async def disturbed() -> Group:
        while True:  # until a pause comes before the end of a group
            running = asyncio.create_task(engine.generate(a_prompt(tokenizer), sampling, 11))
            while not running.done() and num_tokens_so_far(engine) < 5:
                await asyncio.sleep(0.001)
            await engine.pause()
            if not (await asyncio.wait({running}, timeout=0.1))[0]:
                break
            await engine.resume()
        waiting = asyncio.create_task(engine.generate(a_prompt(tokenizer), SamplingConfig(max_tokens=1), 1))
        done, _ = await asyncio.wait({running, waiting}, timeout=0.5)
        assert not done
        await engine.resume()
        await waiting
        return await running

    assert same(undisturbed, runner.run(asyncio.wait_for(disturbed(), HANGS_S)))


def test_an_update_to_other_weights_gives_their_log_probs_and_a_digest_of_its_own(
    make_tiny_model, engine, runner, tokenizer
) -> None:
    from transformers import AutoModelForCausalLM

    prompt, sampling = a_prompt(tokenizer), SamplingConfig(num_completions=8, max_tokens=40, temperature=0.7)
    own = AutoModelForCausalLM.from_pretrained(make_tiny_model("qwen2", tied=True), dtype="float32")
    other = AutoModelForCausalLM.from_pretrained(make_tiny_model("qwen2", tied=True, seed=1), dtype="float32")
    sender = SharedMemorySender(bucket_bytes=100_000)

    async def send(model, version: int) -> tuple[str, float]:
        buckets = sender.export(version, model.named_parameters())
        await engine.check_weights(buckets)
        await engine.pause()
        digest = await engine.load_weights(buckets)
        await engine.commit_weights(version, True)
        sender.release()
        group = await engine.generate(prompt, sampling, 4)
        assert all(each.version_spans[0].version == version for each in group.completions)
        gaps = [reference_logps(model, prompt, each, 0.7) - each.logps for each in group.completions]
        assert digest == await engine.weight_checksum()
        return digest, float(np.abs(np.concatenate(gaps)).mean())

    from_disk = runner.run(engine.weight_checksum())
    other_digest, other_gap = runner.run(send(other, 1))
    own_digest, own_gap = runner.run(send(own, 2))
    assert other_gap < 1e-5 and own_gap < 1e-5
    assert own_digest == from_disk and other_digest != from_disk


async def streamed(engine, prompt, sampling, first: int | None = None) -> list[tuple[str, str | None]]:
    """All pieces, or the first so many."""
    pieces = []
    async for piece in engine.stream(prompt, sampling):
        pieces.append(piece)
        if len(pieces) == first:
            break
    return pieces


def test_a_streamed_answer_comes_in_pieces_and_is_the_whole_greedy_one(engine, runner, tokenizer) -> None:
    prompt, sampling = a_prompt(tokenizer), SamplingConfig(num_completions=1, max_tokens=12, temperature=0.0)
    whole = runner.run(engine.generate(prompt, sampling, None)).completions[0]
    pieces = runner.run(streamed(engine, prompt, sampling))
    assert "".join(text for text, _ in pieces) == whole.text
    assert len(pieces) > 1 and [reason for _, reason in pieces[:-1]] == [None] * (len(pieces) - 1)
    assert pieces[-1][1] == whole.stop_reason
    assert len(runner.run(streamed(engine, prompt, sampling, first=1))) == 1  # left in the middle
    assert runner.run(streamed(engine, prompt, sampling))
    assert engine._llm.output_processor.get_num_unfinished_requests() == 0


def test_a_streamed_answer_that_is_cut_within_a_character_is_whole_too(engine, runner, tokenizer) -> None:
    """Bytes that a random model writes seldom make characters, wherever they end."""
    ends = []
    for max_tokens in range(1, 9):
        sampling = SamplingConfig(num_completions=1, max_tokens=max_tokens, temperature=0.0)
        for words in ("1 + 1 =", "2 + 5 =", "8 + 4 ="):
            prompt = a_prompt(tokenizer, words)
            whole = runner.run(engine.generate(prompt, sampling, None)).completions[0].text
            pieces = runner.run(streamed(engine, prompt, sampling))
            assert "".join(text for text, _ in pieces) == whole
            ends.append(whole[-1:])
    assert "\ufffd" in ends, "no answer of these ended within a character"


def test_a_dead_engine_gives_failures_with_its_last_words(engine, runner, tokenizer) -> None:
    """Last: it ends the module's engine."""

    async def die() -> Group:
        workers = [child for child in psutil.Process().children(recursive=True) if "Worker" in child.name()]
        for worker in workers:
            worker.suspend()  # it takes the requests, and cannot be done with them before it is killed
        sampling = SamplingConfig(num_completions=32, max_tokens=110)
        running = asyncio.create_task(engine.generate(a_prompt(tokenizer), sampling, 1))
        assert await engine.wait_until_queued(32, HANGS_S)
        for worker in workers:
            worker.kill()
        return await asyncio.wait_for(running, HANGS_S)

    group = runner.run(die())
    assert not group.completions
    assert group.failures[0].kind == ENGINE_DIED and "EngineDead" in group.failures[0].message
    later = runner.run(engine.generate(a_prompt(tokenizer), SamplingConfig(), 1))
    assert later.failures[0].kind == ENGINE_DIED
    with pytest.raises(EngineDiedError):  # there is no use in sending it weights
        runner.run(asyncio.wait_for(engine.pause(), HANGS_S))


OWNER = """
import asyncio, sys
from raylign.rollout.engine.vllm_engine import VllmEngine
from raylign.rollout.engine.config import EngineConfig
async def main():
    engine = VllmEngine(sys.argv[1], EngineConfig(max_model_len=64, kv_cache_gib=0.1))
    await engine.start()
    print("ready", flush=True)
    await asyncio.sleep(6000)
if __name__ == "__main__":
    asyncio.run(main())
"""


def test_no_engine_process_outlives_a_killed_owner(make_tiny_model, tmp_path: Path) -> None:
    script = tmp_path / "owner.py"
    script.write_text(OWNER)
    model_path = str(make_tiny_model("qwen2", tied=True))
    owner = subprocess.Popen([sys.executable, str(script), model_path], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    assert any("ready" in line for line in owner.stdout)
    processes = psutil.Process(owner.pid).children(recursive=True)
    assert len(processes) >= 2
    os.kill(owner.pid, signal.SIGKILL)
    owner.wait()
    owner.stdout.close()
    for process in processes:
        wait_until(partial(is_gone, process.pid), f"end of {process}", others=[process.pid])
