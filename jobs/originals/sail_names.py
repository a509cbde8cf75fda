"""Short names of models and data sets in SAIL's published program.

Given `L8B` or `U10`; gives the model's id on the hub, and the keys of the data section that read the same rows.
"""

from __future__ import annotations

import re
from typing import Any

MODELS = {
    **{f"Q{size}": f"Qwen/Qwen1.5-{size}" for size in ("0.5B", "1.8B", "4B", "7B")},
    **{f"Qc{size}": f"Qwen/Qwen1.5-{size}-Chat" for size in ("0.5B", "1.8B", "4B", "7B")},
    **{
        f"Py{size}": f"EleutherAI/pythia-{size.lower()}-deduped"
        for size in ("70M", "160M", "410M", "1B", "1.4B", "2.8B", "6.9B")
    },
    "Ph1.5B": "microsoft/phi-1_5",
    "Ph2B": "microsoft/phi-2",
    "Pm3B": "microsoft/Phi-3-mini-4k-instruct",
    "G2B": "google/gemma-2b",
    "G7B": "google/gemma-7b",
    "M7B": "mistralai/Mistral-7B-v0.1",
    "L8B": "meta-llama/Meta-Llama-3-8B-Instruct",
}
HUMAN = "Human: {prompt}\n\nAssistant: "
PKU = "PKU-Alignment/PKU-SafeRLHF"
FAMILIES: dict[str, dict[str, Any]] = {
    "PP": {"source": PKU, "pairs.format": "pku_better", "template": HUMAN},
    "PM": {"source": PKU, "pairs.format": "pku_safer", "template": HUMAN},
    "U": {"source": "openbmb/UltraFeedback", "pairs.format": "ultrafeedback", "template": "[INST] {prompt} [/INST] "},
    "AH": {"source": "Anthropic/hh-rlhf", "pairs.format": "dialogues", "template": "{prompt}"},
    "OS": {
        "source": "openai/summarize_from_feedback",
        "subset": "comparisons",
        "pairs.format": "summarize",
        "template": "{prompt}",
    },
    "OW": {"source": "openai/webgpt_comparisons", "pairs.format": "webgpt", "template": HUMAN},
}
OWN_HELD_OUT = {"PP": "test", "PM": "test", "AH": "test", "OS": "validation"}
"""Split that a whole data set keeps for evaluation; the others give 5 % of their rows."""
HELD_OUT_ROWS = {"10": ("2000:10000", "0:2000"), "30": ("3000:30000", "0:3000")}


def family_of(name: str) -> tuple[str | None, str]:
    """Family and size in thousands of rows; None where there is none of that name."""
    found = re.fullmatch(rf"({'|'.join(FAMILIES)})(10|30|0)", name)
    return (found[1], found[2]) if found else (None, "")


def data_keys(name: str) -> dict[str, Any] | None:
    """Dotted keys of the training rows; None where there is no data set of that name."""
    family, size = family_of(name)
    if family is None:
        return None
    keys = {f"data.{key}": value for key, value in FAMILIES[family].items()}
    if family in ("PP", "PM") and size != "0":
        keys["data.source"] += f"-{size}K"
    rows = HELD_OUT_ROWS[size][0] if size != "0" else "0%:100%" if family in OWN_HELD_OUT else "5%:100%"
    if family in ("PP", "PM") and size == "30":
        rows = "0%:100%"  # it has a split of its own to evaluate on
    return keys | {"data.split_seed": 42, "data.rows": rows}
