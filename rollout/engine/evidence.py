"""From vLLM's output to a `Completion`, with all that is needed to train on it.

Given one finished output and its text, gives a `Completion`; an output without log-probs or weight versions for every
token is refused, since a learner cannot tell a missing number from a wrong one.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from raylign.rollout.sample import Completion, StopReason, VersionSpan

STOP_REASONS: dict[str, StopReason] = {"stop": "stop", "length": "length"}
"""vLLM's finish reasons; any other one (abort, error) is `aborted`."""


class EvidenceError(RuntimeError):
    """A completion came without the evidence needed to train on it."""


def to_completion(output: Any, text: str) -> Completion:
    """One sampled answer (vLLM's `CompletionOutput`), exactly as sampled: the end token is kept.

    Missing evidence is an `EvidenceError`.
    """
    num_tokens = len(output.token_ids)
    logprobs: Any = output.logprobs
    # At logprobs=0 every position holds one entry, the sampled token's.
    if logprobs is None or len(logprobs.logprobs) != num_tokens or logprobs.token_ids != list(output.token_ids):
        raise EvidenceError(f"vLLM gave no log-prob for every one of {num_tokens} sampled tokens")
    spans = tuple(VersionSpan(int(span.version), span.start, span.end) for span in output.weight_versions or ())
    if sum(span.end - span.start for span in spans) != num_tokens:
        raise EvidenceError(f"vLLM gave weight versions {spans} for {num_tokens} tokens")
    return Completion(
        token_ids=np.asarray(output.token_ids, dtype=np.int32),
        logps=np.asarray(logprobs.logprobs, dtype=np.float32),
        version_spans=spans,
        stop_reason=STOP_REASONS.get(output.finish_reason or "", "aborted"),
        text=text,
    )
