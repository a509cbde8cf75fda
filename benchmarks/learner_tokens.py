"""Learner tokens/s against a plain PyTorch loop on the same tokens without padding, and the padding of both layouts.

Given nothing (it makes the long-tailed workload); one update is forward, backward and optimizer step on 128 sequences.
Both sides: the same weights, one thread on one core, float32, fused AdamW, clipped gradients, the head on completion
tokens only. The plain loop packs sequences without padding; of three chunk sizes the fastest counts.

    .venv/bin/python -m benchmarks.learner_tokens
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.long_tail import completion_lengths, prepare
from benchmarks.measurement import Measurement, compare, in_turn, learner_core, on_core, show

NUM_SEQUENCES, PROMPT_LENGTH = 128, 16
PLAIN_CHUNK_TOKENS = (1, 2048, 8192)
"""Tokens of one pass of the plain loop; 1: every sequence by itself."""


def measure(num_pairs: int = 7, num_sequences: int = NUM_SEQUENCES) -> list[dict[str, Any]]:
    """Tokens/s, and the padding share of the two layouts."""
    import torch

    with tempfile.TemporaryDirectory() as folder, on_core(learner_core()):
        torch.set_num_threads(1)
        model = prepare(Path(folder)).model
        examples = example_batch(num_sequences, seed=0)
        num_tokens = sum(len(example.prompt_ids) + len(example.completion_ids) - 1 for example in examples)
        learners = {layout: our_learner(model, layout, Path(folder)) for layout in ("auto", "padded", "packed")}
        plain = plain_loop(model, examples)

        def rate(update: Callable[[], Any]) -> float:
            start = time.perf_counter()
            update()
            return num_tokens / (time.perf_counter() - start)

        sides: dict[str, Callable[[], float]] = {
            f"plain {chunk}": lambda chunk=chunk: rate(lambda: plain(chunk)) for chunk in PLAIN_CHUNK_TOKENS
        }
        for layout, learner in learners.items():
            sides[layout] = lambda learner=learner: rate(lambda: learner.update(examples))
        rates = in_turn(sides, num_pairs)
        padding = {layout: learner.update(examples)["learner/padding_share"] for layout, learner in learners.items()}
    best = max(PLAIN_CHUNK_TOKENS, key=lambda chunk: float(np.median(rates[f"plain {chunk}"])))
    note = f"plain loop: {best} tokens a pass" if best > 1 else "plain loop: every sequence by itself"
    rows = [
        compare(
            "learner tokens/s",
            "tokens/s",
            rates["auto"],
            rates[f"plain {best}"],
            "plain PyTorch",
            ">= 0.95",
            [f"{note}; layout auto is {learners['auto'].layout} here"],
            all_sides=rates,
        )
    ]
    for layout, limit in (("packed", 0.02), ("padded", 0.08)):
        what = "padding, packed" if layout == "packed" else "padding, bucketed"
        rows.append(Measurement(what, "share", padding[layout], goal=f"<= {limit}"))
    return [row.row() for row in rows]


def example_batch(num_sequences: int, seed: int) -> list[Any]:
    """GRPO examples with the workload's lengths."""
    from raylign.learners.examples.example import Example

    random = np.random.default_rng(seed)
    examples = []
    for length in completion_lengths(num_sequences, seed):
        examples.append(
            Example(
                prompt_ids=random.integers(3, 270, PROMPT_LENGTH).astype(np.int32),
                completion_ids=random.integers(3, 270, length).astype(np.int32),
                loss_mask=np.ones(length, np.float32),
                advantages=np.full(length, random.normal(), np.float32),
                rollout_logps=np.full(length, -5.0, np.float32),
            )
        )
    return examples


def our_learner(model: Path, layout: Any, folder: Path, **config: Any) -> Any:
    """The learner as a run makes it, in this process."""
    from raylign.learners.algorithms.policy_gradient.grpo import GrpoConfig
    from raylign.learners.engines.config import LearnerConfig
    from raylign.learners.learner import Learner

    config = {"learning_rate": 1e-7, "threads_per_rank": 1, "layout": layout, **config}
    return Learner(LearnerConfig(**config), str(model), GrpoConfig().build_objective(), 1.0, 1000, 0, folder / "debug")


def plain_loop(model_path: Path, examples: Sequence[Any]) -> Callable[[int], None]:
    """One update by a loop that one would write by hand, with so many tokens a pass."""
    import torch
    from torch.nn.functional import scaled_dot_product_attention
    from transformers import AttentionInterface, AutoModelForCausalLM

    def varlen(module: Any, q: Any, k: Any, v: Any, mask: Any, scaling: float, **rest: Any) -> tuple[Any, None]:
        pieces = zip(*(x[0].split(rest["lengths"], dim=1) for x in (q, k, v)), strict=True)
        outputs = [
            scaled_dot_product_attention(a[None], b[None], c[None], is_causal=True, scale=scaling, enable_gqa=True)
            for a, b, c in pieces
        ]
        return torch.cat(outputs, dim=2).transpose(1, 2), None

    AttentionInterface.register("plain_varlen", varlen)
    model: Any = AutoModelForCausalLM.from_pretrained(
        model_path, dtype=torch.float32, attn_implementation="plain_varlen"
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-7, weight_decay=0.0, fused=True)
    total = sum(len(example.completion_ids) for example in examples)

    def update(chunk_tokens: int) -> None:
        optimizer.zero_grad(set_to_none=True)
        for part in _parts(examples, chunk_tokens):
            rows = [np.concatenate([example.prompt_ids, example.completion_ids]) for example in part]
            lengths = [len(row) - 1 for row in rows]
            inputs = torch.from_numpy(np.concatenate([row[:-1] for row in rows]).astype(np.int64))[None]
            positions = torch.cat([torch.arange(length) for length in lengths])[None]
            is_answer = np.concatenate(
                [
                    np.arange(len(row) - 1) >= len(example.prompt_ids) - 1
                    for row, example in zip(rows, part, strict=True)
                ]
            )
            targets = torch.from_numpy(np.concatenate([example.completion_ids for example in part]).astype(np.int64))
            advantages = torch.from_numpy(np.concatenate([example.advantages for example in part]))
            hidden = model.model(inputs, position_ids=positions, lengths=lengths, use_cache=False).last_hidden_state[0]
            logits = model.lm_head(hidden[torch.from_numpy(is_answer)])
            logps = -torch.nn.functional.cross_entropy(logits, targets, reduction="none")
            ratio = (logps - logps.detach()).exp()
            clipped = ratio.clamp(0.8, 1.28)
            loss = torch.maximum(-ratio * advantages, -clipped * advantages).sum() / total
            loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return update


def _parts(examples: Sequence[Any], chunk_tokens: int) -> list[list[Any]]:
    """Neighbours by length together, up to so many tokens; at least one each."""
    parts: list[list[Any]] = []
    used = 0
    for example in sorted(examples, key=lambda example: len(example.completion_ids)):
        length = len(example.prompt_ids) + len(example.completion_ids) - 1
        if not parts or used + length > chunk_tokens:
            parts.append([])
            used = 0
        parts[-1].append(example)
        used += length
    return parts


def main() -> None:
    show(measure())


if __name__ == "__main__":
    main()
