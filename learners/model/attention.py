"""Attention over a packed row: each sequence attends to itself only, without a mask and without padding.

Given the model's queries, keys and values of one packed row; gives the attention output, through PyTorch's
variable-length flash attention on GPUs, else sequences of equal length together through scaled-dot-product
attention.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

PACKED_ATTENTION = "raylign_packed"
"""Name under which transformers finds `packed_attention`."""


def register_packed_attention() -> None:
    """Make `attn_implementation="raylign_packed"` known; transformers builds no mask for names it has no mask for."""
    from transformers import AttentionInterface

    AttentionInterface.register(PACKED_ATTENTION, packed_attention)


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    packed_runs: tuple[tuple[int, int], ...] | None = None,
    packed_boundaries: torch.Tensor | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """(1, H, T, D) → (1, T, H, D). `packed_runs` and `packed_boundaries` come from `PolicyModel.forward`."""
    import torch
    from torch.nn.functional import scaled_dot_product_attention

    if packed_runs is None:
        raise ValueError(f"{type(module).__name__} drops attention arguments: set learner.layout to `padded`")
    if query.is_cuda and query.dtype in (torch.bfloat16, torch.float16):
        from torch.nn.attention.varlen import varlen_attn

        longest = max(length for _, length in packed_runs)
        boundaries = packed_boundaries
        rows = [tensor[0].transpose(0, 1).contiguous() for tensor in (query, key, value)]
        gqa = query.shape[1] != key.shape[1]
        out = varlen_attn(
            *rows, boundaries, boundaries, longest, longest, scale=scaling, window_size=(-1, 0), enable_gqa=gqa
        )
        assert isinstance(out, torch.Tensor)
        return out[None], None
    # `split`, not slices: the gradient of a slice is a whole row of zeros, that of a split is one concatenation
    sizes = [count * length for count, length in packed_runs]
    pieces = zip(*(tensor[0].split(sizes, dim=1) for tensor in (query, key, value)), strict=True)
    outputs = []
    for (count, length), run in zip(packed_runs, pieces, strict=True):
        q, k, v = (tensor.unflatten(1, (count, length)).transpose(0, 1) for tensor in run)
        attended = scaled_dot_product_attention(q, k, v, is_causal=True, scale=scaling, enable_gqa=True)
        outputs.append(attended.transpose(1, 2).flatten(0, 1))
    return torch.cat(outputs)[None], None
