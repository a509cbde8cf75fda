"""The long-tailed workload: a 3.4M-parameter model whose answers end by themselves after 45 tokens (median), 450 (p99),
512 at most.

Given a folder; gives a model, a data source and a recipe there. Nothing has to be scripted in an engine: the weights
make the lengths, so that every trainer that loads the folder generates the same distribution of lengths.

How: embedding and head hold a chain of two states. The end of the prompt leads into state 0 (80 %) or state 1 (20 %);
a token of a state is followed by a token of the same state, or by the end token with a chance of 1/55 or 1/150. The
layers between keep their random weights, and decide which token of the state comes. Learning rates are so small that
training does not move the lengths.

    .venv/bin/python -m benchmarks.long_tail runs/long-tail
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

PROMPTS_PER_STEP, NUM_COMPLETIONS, MAX_TOKENS, MAX_MODEL_LEN = 16, 8, 512, 576
STATE_SHARES, MEAN_LENGTHS = (0.8, 0.2), (55.0, 150.0)
IN_STATE_LOGIT = 16.0
"""About that of the tokens of the present state, against 0 of the others: one token in 10,000 leaves its state."""
ON_AXIS = 4.0
"""Size of a state's dimension in an embedding, far above the random rest."""
DATA = {
    "source": "reasoning_gym:chain_sum?min_terms=2&max_terms=4&min_digits=1&max_digits=3",
    "num_generated": 4000,
    "prompt": "{metadata.expression} =",
    "template": "{prompt}",
}
FREE_TOKENS = 32
"""The reward is a penalty for length, 0 up to here and -1 at `MAX_TOKENS`: cheap, and different within a group."""


@dataclass(frozen=True)
class Workload:
    """What both sides of a comparison load."""

    model: Path
    recipe: Path
    prompts: Path
    """The rendered prompts in the order of seed 0, one JSON string a line."""


def prepare(folder: Path) -> Workload:
    """Write what is not there yet."""
    workload = Workload(folder / "model", folder / "recipe.yaml", folder / "prompts.jsonl")
    if not workload.model.exists():
        _write_model(workload.model)
    workload.recipe.write_text(yaml.safe_dump(recipe(folder, num_steps=20), sort_keys=False))
    if not workload.prompts.exists():
        from raylign.rollout.data.config import DataConfig
        from raylign.rollout.data.prompts import PromptSource
        from raylign.rollout.model_folder import load_tokenizer

        source = PromptSource.open(
            DataConfig(**DATA), load_tokenizer(str(workload.model)), 0, MAX_MODEL_LEN - MAX_TOKENS
        )
        texts = [prompt.text for prompt in source.take(0, len(source))]
        workload.prompts.write_text("".join(json.dumps(text) + "\n" for text in texts))
    return workload


def recipe(folder: Path, num_steps: int) -> dict[str, Any]:
    """A run on the workload: one engine and one learner rank, a thread each, no evaluation."""
    return {
        "name": "long-tail",
        "num_steps": num_steps,
        "model": {"path": str(folder / "model")},
        "data": DATA,
        "sampling": {"max_tokens": MAX_TOKENS, "num_completions": NUM_COMPLETIONS},
        "rollout": {
            "prompts_per_step": PROMPTS_PER_STEP,
            "engine": {"max_model_len": MAX_MODEL_LEN, "max_num_seqs": 256},
        },
        "rewards": [{"name": "length", "free_tokens": FREE_TOKENS, "max_tokens": MAX_TOKENS}],
        "algorithm": {"name": "grpo"},
        "learner": {"learning_rate": 1e-7, "threads_per_rank": 1},
        "checkpoints": {"every_steps": 0},
    }


def completion_lengths(count: int, seed: int) -> np.ndarray:
    """(count,) lengths as the model draws them, end token included, for benchmarks that generate nothing."""
    random = np.random.default_rng(seed)
    means = np.asarray(MEAN_LENGTHS)[random.choice(len(MEAN_LENGTHS), count, p=STATE_SHARES)]
    return np.minimum(1 + random.geometric(1 / means), MAX_TOKENS)


def _write_model(folder: Path) -> None:
    from raylign.jobs.init_model import InitModelConfig, init_model
    from raylign.rollout.data.config import DataConfig
    from raylign.rollout.data.prompts import PromptSource
    from raylign.rollout.model_folder import load_tokenizer

    data = DataConfig(**DATA)
    draft = folder.with_name(f"{folder.name}-draft")
    init_model(
        InitModelConfig(
            output=draft,
            data=data,
            num_layers=4,
            width=256,
            num_heads=4,
            num_kv_heads=2,
            mlp_width=800,
            tie_word_embeddings=False,
        )
    )
    tokenizer = load_tokenizer(str(draft))
    prompts = PromptSource.open(data, tokenizer, 0, MAX_MODEL_LEN - MAX_TOKENS).take(0, 200)
    last_tokens = {int(prompt.token_ids[-1]) for prompt in prompts}
    assert len(last_tokens) == 1, f"prompts end in different tokens: {last_tokens}"
    _build_chain(draft, last_tokens.pop(), list(tokenizer.all_special_ids), tokenizer.eos_token_id)
    draft.rename(folder)


def _build_chain(folder: Path, start_token: int, special_tokens: list[int], end_token: int) -> None:
    """Hidden dimensions 0 and 1 say in which state a token is, dimension 2 that the answer starts."""
    import torch
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    torch.manual_seed(0)
    num_tokens, width = model.lm_head.weight.shape
    num_states = len(MEAN_LENGTHS)
    start = num_states
    never = sorted({start_token, *special_tokens})
    spoken = [token for token in range(num_tokens) if token not in never]
    states = [spoken[state::num_states] for state in range(num_states)]
    with torch.no_grad():
        embedding, head = model.get_input_embeddings().weight, model.lm_head.weight
        for matrix, noise in ((embedding, 0.05), (head, 0.1)):
            matrix.normal_(0, noise)
            matrix[:, : start + 1] = 0
        embedding[start_token, start] = ON_AXIS
        for state, tokens in enumerate(states):
            embedding[tokens, state] = ON_AXIS
        for layer in model.model.layers:  # layers write beside the three axes, which stay as embedded
            for linear in (layer.self_attn.o_proj, layer.mlp.down_proj):
                linear.weight[: start + 1] = 0
        # What the final norm leaves of an axis, and the logits beside it, are measured: first nobody ends.
        scale = IN_STATE_LOGIT / width**0.5
        head[never, : start + 1] = -scale
        for state, tokens in enumerate(states):
            head[tokens, state] = scale
            head[tokens, start] = scale + np.log(STATE_SHARES[state] / len(tokens)) / width**0.5
        head[end_token, start:] = 0
        for state, mean_length in enumerate(MEAN_LENGTHS):
            hidden = _hidden_in_state(model, start_token, states[state])
            log_odds = -np.log(mean_length - 1)
            end_logit = (hidden @ head.T).logsumexp(-1).mean() + log_odds
            head[end_token, state] = end_logit / hidden[:, state].mean()
    model.save_pretrained(folder)


def _hidden_in_state(model: Any, start_token: int, tokens: list[int]) -> Any:
    """(N, H) final hidden states of answers that stay in one state."""
    import torch

    answers = model.generate(
        torch.tensor([[start_token, token] for token in tokens]),
        attention_mask=torch.ones(len(tokens), 2, dtype=torch.int64),
        max_new_tokens=64,
        do_sample=True,
        top_k=0,
    )
    return model.model(answers).last_hidden_state[:, 1:].flatten(0, 1)


def main() -> None:
    workload = prepare(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/long-tail"))
    print(f"raylign train --config {workload.recipe}")


if __name__ == "__main__":
    main()
