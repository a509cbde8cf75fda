"""Model folders and tokenizers that cannot work are refused before anything heavy starts.

Given broken folders; shows the messages.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from raylign.jobs.init_model import END_TOKEN, PAD_TOKEN, train_tokenizer
from raylign.rollout.model_folder import check_model_folder, load_tokenizer


def save_tokenizer(folder: Path, pad_token: str | None, eos_token: str | None) -> None:
    from transformers import PreTrainedTokenizerFast

    trained = train_tokenizer(["abc"], vocabulary_size=260, split_digits=False)
    PreTrainedTokenizerFast(tokenizer_object=trained, pad_token=pad_token, eos_token=eos_token).save_pretrained(folder)


@pytest.mark.parametrize("pad_token", [PAD_TOKEN, END_TOKEN, None])
def test_a_tokenizer_with_an_end_token_loads_whatever_pads(tmp_path: Path, pad_token: str | None) -> None:
    save_tokenizer(tmp_path, pad_token, END_TOKEN)
    tokenizer = load_tokenizer(tmp_path)
    assert (tokenizer.pad_token, tokenizer.eos_token) == (pad_token, END_TOKEN)


def test_a_tokenizer_without_end_token_is_refused(tmp_path: Path) -> None:
    save_tokenizer(tmp_path, PAD_TOKEN, None)
    with pytest.raises(ValueError, match=r"no end \(EOS\) token; set 'eos_token' in its tokenizer_config.json"):
        load_tokenizer(tmp_path)


def test_a_folder_without_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no tokenizer in it"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ValueError, match=f"{tmp_path}: the tokenizer does not load"):
        load_tokenizer(tmp_path)


def test_an_unknown_folder_is_shown_with_its_whole_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    for check in (check_model_folder, load_tokenizer):
        for name in ("./tiny", "runs/tiny", str(tmp_path / "tiny"), tmp_path / "tiny"):
            with pytest.raises(ValueError, match=f"not found: {tmp_path}/.*tiny"):
                check(name)


def test_a_name_that_the_hub_cannot_serve_is_refused_in_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail(f"waits {seconds} s for another try"))
    own_s = time.process_time()
    with pytest.raises(ValueError, match=r"'nobody/nothing': neither a folder here .* nor loaded by name"):
        load_tokenizer("nobody/nothing")
    assert time.process_time() - own_s < 20


def test_a_folder_without_config_or_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no config.json"):
        check_model_folder(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="no weights in it"):
        check_model_folder(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match="no weights in it"):
        check_model_folder(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    check_model_folder(tmp_path)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model-00001-of-00002.safetensors").write_bytes(b"weights")
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"1 of 2 weight files missing, first model-00002-of-00002"):
        check_model_folder(tmp_path)
