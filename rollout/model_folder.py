"""Model folders and their tokenizers, checked before anything heavy starts.

Given a folder or a Hugging Face name; gives the tokenizer, or a ValueError that says what is missing and what to do.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from raylign.rollout.hub import hub_is_reachable, looks_like_path

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_NEVER_RUN = (
    "{folder}: its {what} is code of its own ({code}), which raylign never runs; give a model whose architecture "
    "transformers has, or convert this one to such an architecture"
)
PICKLED = ("pytorch_model*.bin", "*.pt", "*.pth", "*.ckpt")
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")


def find_model_folder(path: str | Path) -> Path | None:
    """The local folder that `path` means; None where it is a Hugging Face name."""
    folder = Path(path).expanduser().absolute()
    if folder.is_dir():
        return folder
    if folder.exists():
        raise ValueError(f"model folder {folder} is a file; give the folder that holds config.json")
    if isinstance(path, Path) or looks_like_path(path):
        raise ValueError(f"model folder not found: {folder} (raylign init-model makes a tiny one)")
    return None


def check_model_folder(path: str | Path) -> None:
    """Raise unless a local folder holds a config and all its weight files. Hugging Face names are not looked up."""
    folder = find_model_folder(path)
    if folder is None:
        return
    if not (folder / "config.json").is_file():
        raise ValueError(f"{folder}: no config.json in it, so no model in Hugging Face format")
    _check_config(folder / "config.json")
    for index in folder.glob("*.safetensors.index.json"):
        try:
            shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"{index}: not an index of weight files ({error})") from error
        if missing := sorted(shard for shard in shards if not (folder / shard).is_file()):
            raise ValueError(f"{folder}: {len(missing)} of {len(shards)} weight files missing, first {missing[0]}")
    if not any(file.stat().st_size for file in folder.glob("*.safetensors")):
        if pickled := sorted(file.name for pattern in PICKLED for file in folder.glob(pattern)):
            raise ValueError(
                f"{folder}: its weights are a pickle ({pickled[0]}), which raylign does not read: weights come from "
                '*.safetensors alone. Convert it once: python -c "from transformers import AutoModelForCausalLM as M; '
                f"M.from_pretrained('{folder}').save_pretrained('{folder}')\""
            )
        raise ValueError(f"{folder}: no weights in it (no *.safetensors file)")
    refuse_own_code(folder)


def _check_config(file: Path) -> None:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file}: not a model's config: not readable as JSON ({error})") from None
    if not isinstance(found, dict):
        raise ValueError(f"{file}: not a model's config: a {type(found).__name__} in the place of names and values")


def refuse_own_code(folder: Path) -> None:
    """Raise where the model is defined by Python files beside it and by nothing that transformers has.

    Many folders name such files (`auto_map`) for old versions of transformers alone; those are loaded without them.
    """
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING,
        MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    )

    code = _own_code(folder / "config.json")
    if not code:
        return
    try:
        model_config = AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except ValueError:
        raise ValueError(_NEVER_RUN.format(folder=folder, what="model", code=code)) from None
    known = (MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING)
    if not any(type(model_config) in mapping for mapping in known):
        raise ValueError(_NEVER_RUN.format(folder=folder, what="model", code=code))


def _own_code(file: Path) -> str:
    """The classes that a config file names beside itself, `modeling_x.Model`; empty where there are none."""
    try:
        named = json.loads(file.read_text(encoding="utf-8")).get("auto_map")
    except (OSError, ValueError, AttributeError, RecursionError):
        return ""
    classes = named.values() if isinstance(named, dict) else named or ()
    parts = [part for each in classes for part in (each if isinstance(each, list) else [each])]
    return ", ".join(dict.fromkeys(str(part) for part in parts if part))


def load_tokenizer(path: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a model, with an end token.

    It needs no padding token, and one that is the end token does no harm: padding is told by the lengths of sequences,
    never by an id, so the end token after an answer is learned, scored and sampled like any other.
    """
    folder = find_model_folder(path)
    if folder is not None and not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise ValueError(f"{folder}: no tokenizer in it (none of {', '.join(TOKENIZER_FILES)})")
    from transformers import AutoTokenizer

    local_only = folder is not None or not hub_is_reachable()
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            str(folder or path), local_files_only=local_only, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        if folder is not None and (code := _own_code(folder / "tokenizer_config.json")):
            raise ValueError(_NEVER_RUN.format(folder=folder, what="tokenizer", code=code)) from None
        if folder is not None:
            raise ValueError(f"{folder}: the tokenizer does not load: {error}") from error
        reason = "the Hugging Face hub does not answer from here and it is not in the cache" if local_only else error
        raise ValueError(
            f"model {str(path)!r}: neither a folder here ({Path(path).absolute()}) nor loaded by name: {reason}"
        ) from error
    if tokenizer.eos_token_id is None:
        raise ValueError(
            f"{folder or path}: the tokenizer has no end (EOS) token; set 'eos_token' in its tokenizer_config.json to "
            "a token of its vocabulary"
        )
    return tokenizer
