"""Several sources of preference pairs in one run, each read and tried, with rows and shares.

Given the config and what was found of `data`; adds to the findings what each further source is, and a row for each with
its rows and its share; and the same for sources of held-out pairs.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from raylign.jobs.checks.data import Samples, check_data, may_share_rows
from raylign.jobs.checks.findings import Findings
from raylign.jobs.config.train import TrainConfig
from raylign.rollout.data.shares import parts_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def check_more_data(
    config: TrainConfig, first: Samples, num_first: int | None, tokenizer: PreTrainedTokenizerBase, findings: Findings
) -> int | None:
    """Rows of an epoch; None where a source cannot be read."""
    counts = [num_first]
    for number, data in enumerate(config.more_data):
        key = f"more_data[{number}]"
        samples = replace(first, key=key, data=data, rewards=[])
        counts.append(check_data(samples, tokenizer, config.seed + number + 1, findings))
    num_rows = [count for count in counts if count is not None]
    if len(num_rows) < len(counts):
        return None
    parts = parts_of(num_rows, [each.share for each in config.more_data])
    epoch = sum(num_rows)
    sources = [config.data.source, *(each.source for each in config.more_data)]
    for part, count, source in zip(parts, num_rows, sources, strict=True):
        share = part / sum(parts)
        rounds = share * epoch / count
        findings.fact(
            "  share",
            f"{share:.4g} of {source}: its {count} rows {rounds:.3g} times in an epoch of {epoch}",
        )
    return epoch


def check_held_out_pairs(
    config: TrainConfig, context: int, tokenizer: PreTrainedTokenizerBase, findings: Findings
) -> None:
    """Each source of held-out pairs, which no source of training may share rows with."""
    evaluation = config.evaluation
    held_out = {"evaluation.pairs": evaluation.pairs}
    held_out |= {f"evaluation.more_pairs[{number}]": data for number, data in enumerate(evaluation.more_pairs)}
    trained = {"data": config.data} | {f"more_data[{number}]": data for number, data in enumerate(config.more_data)}
    for key, data in held_out.items():
        if data is None:
            continue
        check_data(Samples(key, data, [], context, context, "pairs"), tokenizer, config.seed, findings)
        for other, used in trained.items():
            if may_share_rows(used, data):
                findings.warnings.append(
                    f"{key}.rows {data.rows} and {other}.rows {used.rows} of {used.source} overlap: the run is "
                    "evaluated on pairs that it trains on"
                )
