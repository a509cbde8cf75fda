"""Validation of what an engine gave, before anything is made of it.

Given a finished group and the sampling that was asked for; gives the first thing that is wrong with it, in words. A
refused group is counted and its prompt generated anew: a learner cannot tell a missing number from a wrong one.
"""

from __future__ import annotations

import numpy as np

from raylign.rollout.sample import Completion, Group
from raylign.rollout.sampling import SamplingConfig

LOGP_ROUNDING = 1e-4
"""How far above 0 a log-prob may be by rounding."""


def why_refused(group: Group, sampling: SamplingConfig) -> str | None:
    """None for a group that may be trained on."""
    if len(group.completions) != sampling.num_completions:
        return f"{len(group.completions)} completions instead of {sampling.num_completions}"
    for number, completion in enumerate(group.completions):
        if wrong := _why_wrong(completion, sampling):
            return f"completion {number}: {wrong}"
    return None


def _why_wrong(completion: Completion, sampling: SamplingConfig) -> str | None:
    num_tokens = len(completion.token_ids)
    if completion.stop_reason == "aborted":
        return "it is unfinished"
    if not 1 <= num_tokens <= sampling.max_tokens:
        return f"{num_tokens} tokens, where 1 to {sampling.max_tokens} were asked for"
    if len(completion.logps) != num_tokens:
        return f"{len(completion.logps)} log-probs for {num_tokens} tokens"
    if not np.isfinite(completion.logps).all() or completion.logps.max() > LOGP_ROUNDING:
        return "a log-prob is not a finite number of at most 0"
    ends = [0, *(span.end for span in completion.version_spans)]
    starts = [*(span.start for span in completion.version_spans), num_tokens]
    if ends != starts:
        return f"its weight versions cover {starts[:-1]} to {ends[1:]} instead of all {num_tokens} tokens"
    return None
