"""docs/from_the_originals/: every command and key of ours on those pages is one that `raylign plan` accepts."""

from __future__ import annotations

import shlex
from collections import Counter
from pathlib import Path

import pytest

from raylign.jobs.config.loading import ConfigError
from raylign.jobs.originals.pages import CODE, WITHOUT_KEY, Row, all_rows
from tests.jobs.stand_ins import StandIns

pytestmark = pytest.mark.usefixtures("one_tokenizer")
PAGES = sorted((Path(__file__).parents[2] / "docs" / "from_the_originals").glob("*.md"))
FLAGS_OF_TRAIN_SELECTOR = """
    save_path save_steps logging_steps eval_steps ckpt_path max_ckpt_num max_ckpt_mem load_checkpoint
    train_batch_size micro_train_batch_size max_norm gradient_checkpointing gradient_checkpointing_use_reentrant seed
    disable_fast_tokenizer local_rank zero_stage bf16 ref_offload zpg adam_offload flash_attn grad_accum_dtype
    disable_trace_cache pretrain load_in_4bit lora_rank lora_alpha target_modules lora_dropout
    max_epochs lambd eps lr_scheduler learning_rate l2 adam_betas
    obj_1 aux_loss_coef_1 obj_opt_1 ref_pareto_1 obj_2 max_len_2 aux_loss_coef_2 obj_opt_2 ref_pareto_2
    dataset_1 dataset_probs_1 train_split_1 eval_split_1 input_template_1 max_samples_1 max_len_1 apply_chat_template_1
    tokenizer_chat_template_1 dataset_2 dataset_probs_2 train_split_2 eval_split_2 input_template_2 max_samples_2
    apply_chat_template_2 tokenizer_chat_template_2 input_key output_key input_key_2 output_key_2
    pref_prompt_key pref_chosen_key pref_rejected_key pref_prompt_key_2 pref_chosen_key_2 pref_rejected_key_2
    ref_model ref_model_2 dpo_beta dpo_ipo dpo_label_smoothing dpo_nll_loss_coef
    dpo_beta_2 dpo_ipo_2 dpo_label_smoothing_2 dpo_nll_loss_coef_2
    selector_learning_rate selector_activation selector_name selector_lr_scheduler selector_mode selector_temperature
    selector_weight_decay online_sample_ratio online_generation_freq online_sample_size online_temperature
    generation_batch_size dynamic_mode filter_rate ref_constant upperlevel_weight upperlevel_weight_decay
    use_wandb wandb_org wandb_group wandb_project wandb_run_name use_tensorboard
"""


ROWS = all_rows()


@pytest.mark.parametrize("row", [row for row in ROWS if row.command], ids=lambda row: f"{row.place}: {row.original}")
def test_what_a_page_says_is_ours_passes_plan(row: Row, stand_ins: StandIns, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "of a judge that is not asked here")
    assert row.command is not None
    words = shlex.split(row.command)
    assert words.pop(0) == "raylign", row.command
    findings = stand_ins.examine(words)
    assert findings.problems == []
    assert [warning for warning in findings.warnings if "overlap" in warning] == []


def test_each_original_has_a_page_full_of_rows() -> None:
    rows_of = Counter(row.place.partition(":")[0] for row in ROWS)
    assert sorted(rows_of) == sorted(page.name for page in PAGES)
    assert {"bdr.md", "bleuberi.md", "bonbon.md", "sail.md", "synthetic_data_rl.md"} <= set(rows_of)
    assert min(rows_of.values()) > 40, rows_of
    assert len(ROWS) > 200


def test_a_row_has_a_command_or_says_that_there_is_none() -> None:
    assert [row.place for row in ROWS if not row.command and row.ours not in WITHOUT_KEY] == []


def test_every_flag_of_the_published_selector_is_on_its_page() -> None:
    names = {name for row in ROWS if row.place.startswith("bdr.md:") for name in CODE.findall(row.original)}
    assert [flag for flag in FLAGS_OF_TRAIN_SELECTOR.split() if flag not in names] == []


def test_a_key_that_does_not_exist_is_found(stand_ins: StandIns) -> None:
    row = Row("sail", "here", "", "`r`", "`--algorithm.ddp.shares 0.4`", "", "raylign train --config sail_ddp")
    assert row.command is not None
    with pytest.raises(ConfigError, match="did you mean"):
        stand_ins.examine(shlex.split(row.command)[1:])
