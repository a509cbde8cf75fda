"""What rewards that are models share: what they are loaded with, where they compute, and in how large batches.

Given the keys that such rewards share; gives device, type of numbers, and rows in batches of like length, so that
little padding is computed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from raylign.rewards.base import WeightedConfig

if TYPE_CHECKING:
    import torch


class ModelConfig(WeightedConfig):
    """What the config of a reward that is a model has beside its `name` and `model`."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where it runs; auto: the GPU that it asks for (`num_gpus`), else the CPU."""
    num_gpus: float = Field(0.0, ge=0)
    """GPUs, or a share of one, that its server asks Ray for in a run on GPUs; 0: it computes on the CPU."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Computation; auto: float32 on CPU, bfloat16 on GPU."""
    batch_tokens: int = Field(16384, ge=1)
    """Tokens, padding included, of one forward pass."""

    def place(self) -> tuple[str, torch.dtype]:
        """Device and type of numbers on this machine."""
        import torch

        has_gpu = torch.cuda.is_available()
        device = self.device if self.device != "auto" else "cuda" if has_gpu else "cpu"
        default = "bfloat16" if device == "cuda" else "float32"
        return device, getattr(torch, default if self.dtype == "auto" else self.dtype)


def config_and_tokenizer(what: str, model: str) -> tuple[Any, Any]:
    """Of a folder or id, whose code is never run; `what`: for the error."""
    from transformers import AutoConfig, AutoTokenizer

    try:
        return (
            AutoConfig.from_pretrained(model, trust_remote_code=False),
            AutoTokenizer.from_pretrained(model, trust_remote_code=False),
        )
    except (OSError, ValueError) as error:  # ValueError: it has code of its own
        raise ValueError(f"{what} {model!r} cannot be loaded: {error}") from None


def length_buckets(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Row numbers in batches of like length, each at most `batch_tokens` with padding (or one row)."""
    batch: list[int] = []
    for row in sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True):
        if batch and (len(batch) + 1) * lengths[batch[0]] > batch_tokens:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def padded(token_ids: Sequence[list[int]], rows: Sequence[int], pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids of these rows, padded on the right, and their mask, both (B, T)."""
    import torch

    longest = max(len(token_ids[row]) for row in rows)
    ids = torch.full((len(rows), longest), pad_id, dtype=torch.long)
    mask = torch.zeros((len(rows), longest), dtype=torch.long)
    for line, row in enumerate(rows):
        ids[line, : len(token_ids[row])] = torch.tensor(token_ids[row])
        mask[line, : len(token_ids[row])] = 1
    return ids, mask
