"""Values of the originals' options in our words, where they are not simply carried over.

Given page, word and the value that was typed; gives words of ours. `None`: the value is carried over as it is. A word
of `SAID_ONLY` becomes no key: what its row says is told.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Mapping

from raylign.jobs.originals.sail_names import MODELS, data_keys

Key = tuple[str, str]

TEMPLATES: Mapping[Key, str] = {
    ("bdr", "adam_betas"): "--learner.adam_betas {numbers}",
    ("bdr", "apply_chat_template_1"): "--trusted_data.template chat",
    ("bdr", "apply_chat_template_2"): "--data.template chat",
    ("bdr", "bf16"): "--learner.dtype bfloat16",
    ("bdr", "dpo_ipo"): "--algorithm.upper ipo",
    ("bdr", "dpo_label_smoothing"): "--algorithm.upper dpo --algorithm.label_smoothing {value}",
    ("bdr", "gradient_checkpointing"): "--learner.gradient_checkpointing true",
    ("bdr", "input_key"): "--trusted_data.prompt {column}",
    ("bdr", "input_key_2"): "--data.prompt {column}",
    ("bdr", "input_template_1"): "--trusted_data.template {template}",
    ("bdr", "input_template_2"): "--data.template {template}",
    ("bdr", "load_checkpoint"): "--resume",
    ("bdr", "max_samples_1"): "--trusted_data.rows 0:{integer} --evaluation.trusted null",
    ("bdr", "max_samples_2"): "--data.rows 0:{integer}",
    ("bdr", "obj_1"): "--algorithm.upper {lower}",
    ("bdr", "output_key"): "--trusted_data.response {column}",
    ("bdr", "output_key_2"): "--data.response {column}",
    ("bdr", "pref_chosen_key"): "--algorithm.upper dpo --trusted_data.pairs.chosen {column}",
    ("bdr", "pref_prompt_key"): "--algorithm.upper dpo --trusted_data.prompt {column}",
    ("bdr", "pref_rejected_key"): "--algorithm.upper dpo --trusted_data.pairs.rejected {column}",
    ("bdr", "ref_model"): "--algorithm.upper dpo --learner.reference_path {value}",
    ("bdr", "target_modules"): "--learner.lora.target_modules {words}",
    ("bdr", "use_wandb"): "--trackers.wandb",
    ("bdr", "use_tensorboard"): "--trackers.tensorboard",
    ("bonbon", "eval_every"): "--evaluation.every_steps {steps}",
    ("bonbon", "local_dirs"): "--folder {folder}",
    ("bonbon", "local_run_dir"): "--folder {folder}",
    ("bonbon", "loss.reference_free"): "--algorithm.reference_free {lower}",
    ("bonbon", "n_examples"): "--num_steps {steps}",
    ("bonbon", "n_seq"): "--best_of {numbers}",
    ("bonbon", "optimizer"): "--learner.optimizer {lower}",
    ("bonbon", "reward_model_dir"): "--rewards {reward_model}",
    ("bonbon", "save_data_path"): "--folder {value}",
    ("bonbon", "activation_checkpointing"): "--learner.gradient_checkpointing {lower}",
    ("bonbon", "wandb.enabled"): "--trackers.wandb {lower}",
    ("sail", "adam_beta2"): "--learner.adam_betas {second_beta}",
    ("sail", "bf16"): "--learner.dtype bfloat16",
    ("sail", "-d"): "--data.source {value}",
    ("sail", "-g"): "--learner.num_ranks {count} --rollout.num_engines {count}",
    ("sail", "optim"): "--learner.optimizer {lower}",
    ("sail", "score_model_id"): "--rewards {reward_model}",
    ("sail", "gradient_checkpointing"): "--learner.gradient_checkpointing {lower}",
}
"""`{value}` is what was typed; the other places are made of it by `PLACES`."""

SAID_ONLY = frozenset(
    {
        ("bdr", "eval_split_1"),
        ("bdr", "local_rank"),
        ("bdr", "micro_train_batch_size"),
        ("bonbon", "batch_size@data best-of-n"),
        ("bonbon", "gradient_accumulation_steps"),
        ("bonbon", "model.archive"),
        ("bonbon", "ref_weight_dir"),
        ("bonbon", "rw_tokenizer"),
        ("bonbon", "tokenizer"),
        ("bonbon", "trainer"),
        ("sail", "gradient_accumulation_steps"),
        ("sail", "generation_num_batches"),
        ("sail", "max_prompt_length"),
        ("sail", "max_target_length"),
        ("sail", "per_device_eval_batch_size"),
        ("sail", "per_device_evalreward_batch_size"),
        ("sail", "per_device_generation_batch_size"),
    }
)
"""Counted in another unit than ours, or a file that we do not read: carried over, they would mean something else."""
SAID_WORDS = "its value means something else here"

ALIASES: Mapping[Key, Mapping[str, str]] = {
    ("bdr", "lora_rank"): {"0": "--learner.lora null"},
    ("bdr", "save_steps"): {"-1": "--checkpoints.every_steps 0"},
    ("bdr", "eval_steps"): {"-1": "--evaluation.every_steps 0"},
    ("bdr", "target_modules"): {"all-linear": "--learner.lora.target_modules all-linear"},
    ("bdr", "selector_mode"): {
        "BDR": "--config bdr_blueorca_redorca",
        "BDR_Online": "--config bdr_online_blueorca_redorca",
    },
    ("bonbon", "model"): {
        "gpt2-large": "--model.path openai-community/gpt2-large",
        "gpt2-xl": "--model.path openai-community/gpt2-xl",
        "gptj": "--model.path EleutherAI/gpt-j-6b",
        "pythia28": "--model.path EleutherAI/pythia-2.8b",
        "pythia69": "--model.path EleutherAI/pythia-6.9b",
    },
    ("sail", "-m"): {short: f"--model.path {name}" for short, name in MODELS.items()},
    ("sail", "-p"): {route: f"--config sail_{route.lower()}" for route in ("DPO", "DDP", "DPP", "DPR", "MIX")},
}
"""Short names, and values that mean something else than a number."""
ONLY_ALIASES = frozenset({("bdr", "selector_mode")})
"""Any other value is unknown there too."""
ONLY_ONLINE = frozenset(
    {"filter_rate", "online_sample_ratio", "online_generation_freq", "online_sample_size", "online_temperature",
     "generation_batch_size", "dynamic_mode"}
)  # fmt: skip
"""Of the selector's program: without `--selector_mode BDR_Online` they do nothing there, and fail here."""


def words_of(page: str, word: str, value: str | None, batch_size: int) -> list[str] | None:
    """Ours; None where the example's place takes the value as it is. A value that cannot be read is a ValueError."""
    key = (page, word)
    aliases = ALIASES.get(key, {})
    if key == ("sail", "-d") and value is not None and (named := data_keys(value)) is not None:
        return [part for name, each in named.items() for part in (f"--{name}", str(each))]
    if value is not None and value in aliases:
        return shlex.split(aliases[value])
    if key in ONLY_ALIASES:
        raise ValueError(f"{word} {value}: not known there either; known: {', '.join(aliases)}")
    template = TEMPLATES.get(key)
    if template is None:
        return None
    if value is None and "{" in template:
        return None
    found: list[str] = []
    for part in template.split():
        place = re.fullmatch(r"(?P<before>.*)\{(?P<name>\w+)\}", part)
        if place is None:
            found.append(part)
        else:
            assert value is not None
            made = value if place["name"] == "value" else PLACES[place["name"]](value, batch_size)
            found.append(f"{place['before']}{made}")
    return found


def _items(value: str) -> list[str]:
    return [item.strip("'\"[]") for item in re.split(r"[,\s]+", value.strip()) if item.strip("'\"[]")]


def _number(value: str) -> int | float:
    try:
        number = float(value)
    except ValueError:
        raise ValueError(f"{value!r} is no number") from None
    return int(number) if number.is_integer() and "." not in value else number


def _reward_model(value: str, batch_size: int) -> str:
    return json.dumps([{"name": "reward_model", "model": value}])


PLACES: Mapping[str, Callable[[str, int], str]] = {
    "column": lambda value, batch_size: f"{{{value}}}",
    "count": lambda value, batch_size: value.rpartition(":")[2],
    "folder": lambda value, batch_size: f"{_items(value)[0].rstrip('/')}/{{name}}",
    "integer": lambda value, batch_size: str(int(float(_number(value)))),
    "lower": lambda value, batch_size: value.lower(),
    "numbers": lambda value, batch_size: json.dumps([_number(item) for item in _items(value)]),
    "reward_model": _reward_model,
    "second_beta": lambda value, batch_size: json.dumps([0.9, _number(value)]),
    "steps": lambda value, batch_size: str(max(1, int(_number(value)) // batch_size)),
    "template": lambda value, batch_size: value.replace("{}", "{prompt}").replace("\\n", "\n"),
    "words": lambda value, batch_size: json.dumps(_items(value)),
}
