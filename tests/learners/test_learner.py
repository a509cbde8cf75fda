"""One learner rank with the real DeepSpeed: log-probs, adapters, folders, stops, settings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from raylign.learners.algorithms.policy_gradient.cispo import CispoConfig
from raylign.learners.algorithms.policy_gradient.grpo import GrpoConfig
from raylign.learners.algorithms.policy_gradient.gspo import GspoConfig
from raylign.learners.algorithms.policy_gradient.rloo import RlooConfig
from raylign.learners.algorithms.registry import AnyAlgorithmConfig
from raylign.learners.algorithms.sft import SftConfig
from raylign.learners.engines.config import LearnerConfig, LoraConfig
from raylign.learners.engines.non_finite import NonFiniteError
from raylign.learners.examples.example import Example
from raylign.learners.learner import Learner
from raylign.learners.losses.corrections import CorrectionConfig
from raylign.learners.meters.metric import values_of
from raylign.rollout.staleness import StalenessError

pytestmark = pytest.mark.ray
Make = Callable[..., Learner]


@pytest.fixture
def make(tiny_model: Path, tmp_path: Path) -> Make:
    def build(
        algorithm: AnyAlgorithmConfig | None = None,
        temperature: float = 1.0,
        model: Path = tiny_model,
        total_steps: int = 10,
        max_staleness: int = 0,
        **settings: Any,
    ) -> Learner:
        config = LearnerConfig.model_validate({"learning_rate": 1e-2, "threads_per_rank": 1, **settings})
        chosen = (algorithm or GrpoConfig()).build_objective(max_staleness)
        debug = tmp_path / "debug"
        return Learner(config, str(model), chosen, temperature, total_steps, 0, debug, max_staleness)

    return build


def examples(num_examples: int = 8) -> list[Example]:
    rng = np.random.default_rng(3)
    made = []
    for _ in range(num_examples):
        prompt, completion = rng.integers(0, 97, rng.integers(1, 9)), rng.integers(0, 97, rng.integers(1, 14))
        length = len(completion)
        made.append(
            Example(
                prompt.astype(np.int32),
                completion.astype(np.int32),
                loss_mask=np.ones(length, np.float32),
                advantages=np.full(length, rng.normal(), np.float32),
                rollout_logps=np.full(length, -4.5, np.float32),
            )
        )
    return made


def transformers_logps(model: Any, example: Example, temperature: float = 1.0) -> np.ndarray:
    """Slow and plain: one sequence, all logits."""
    ids = torch.from_numpy(np.concatenate([example.prompt_ids, example.completion_ids]).astype(np.int64))
    with torch.no_grad():
        logps = torch.log_softmax(model(ids[None]).logits[0] / temperature, -1)
    start = len(example.prompt_ids) - 1
    return np.array([logps[start + t, token] for t, token in enumerate(example.completion_ids)])


def snapshot(learner: Learner) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in learner.weights()}


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize(
    "settings",
    [{"layout": "padded"}, {"layout": "packed", "micro_batch_tokens": 30}, {"logit_chunk_tokens": 7}],
)
def test_log_probs_are_those_of_transformers(
    make: Make, tiny_model: Path, temperature: float, settings: dict[str, Any]
) -> None:
    found = make(temperature=temperature, **settings).logprobs(examples())
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    for example, logps in zip(examples(), found, strict=True):
        assert logps == pytest.approx(transformers_logps(model, example, temperature), abs=2e-6)


def test_update_reports_metrics_and_learns(make: Make) -> None:
    learner = make(SftConfig(), schedule="linear", warmup_steps=2)
    parts = [replace(example, advantages=None, rollout_logps=None) for example in examples()]
    history = [learner.update(parts) for _ in range(10)]
    assert history[-1]["learner/loss"] < history[0]["learner/loss"] - 0.5
    assert [part["learner/learning_rate"] for part in history[:3]] == pytest.approx([5e-3, 1e-2, 1e-2])
    logps = np.concatenate(make(SftConfig()).logprobs(parts))
    assert history[0]["learner/loss"] == pytest.approx(-logps.mean(), rel=1e-5)
    assert history[0]["learner/num_tokens"] == len(logps)
    assert not any(key.startswith(("mismatch/", "learner/kl", "learner/clip")) for key in history[0])


def test_grpo_update_reports_mismatch_from_the_start_of_the_update(make: Make) -> None:
    for num_updates in (1, 3):
        learner = make(GrpoConfig(num_updates=num_updates), learning_rate=1e-9)
        difference = np.abs(np.concatenate(learner.logprobs(examples())) + 4.5)
        metrics = learner.update(examples())
        assert learner.engine.num_steps == num_updates
        assert metrics["mismatch/max_abs_logp_difference"] == pytest.approx(difference.max(), rel=1e-5)
        assert 0 < metrics["mismatch/effective_sample_size_share"] <= 1
        if num_updates == 1:
            assert metrics["mismatch/mean_abs_logp_difference"] == pytest.approx(difference.mean(), rel=1e-5)
        assert "learner/kl" not in metrics


def test_several_updates_move_the_ratio_away_from_one(make: Make) -> None:
    metrics = make(GrpoConfig(num_updates=4, clip_low=0.01, clip_high=0.01)).update(examples())
    assert metrics["learner/clip_fraction_low"] + metrics["learner/clip_fraction_high"] > 0


def test_the_kl_grows_from_zero_and_the_reference_stays(make: Make) -> None:
    for lora in (None, LoraConfig(rank=4)):
        learner = make(GrpoConfig(kl_coef=1e-3), lora=lora)
        kls = [learner.update(examples())["learner/kl"] for _ in range(3)]
        assert kls[0] == 0
        assert kls[2] > kls[0] + 1e-5


def test_the_reference_can_be_another_model(make: Make, tmp_path: Path) -> None:
    learner = make()
    learner.update(examples())
    learner.save_model(tmp_path / "other")
    metrics = make(GrpoConfig(kl_coef=1e-3), reference_path=str(tmp_path / "other")).update(examples())
    assert metrics["learner/kl"] > 1e-6


def test_a_batch_that_teaches_nothing_changes_nothing(make: Make) -> None:
    learner = make()
    before = snapshot(learner)
    masked = [replace(example, loss_mask=np.zeros_like(example.loss_mask)) for example in examples()]
    assert learner.update(masked) == {"learner/num_tokens": 0.0}
    flat = [replace(e, advantages=np.zeros(len(e.completion_ids), np.float32)) for e in examples()]
    assert learner.update(flat)["learner/grad_norm"] == 0
    assert all(torch.equal(before[name], tensor) for name, tensor in learner.weights())


@pytest.mark.parametrize(("dtype", "stage"), [("float32", 0), ("float32", 1), ("float32", 3), ("bfloat16", 0)])
def test_non_finite_loss_stops_before_the_optimizer_moves(make: Make, tmp_path: Path, dtype: str, stage: int) -> None:
    learner = make(dtype=dtype, zero_stage=stage, micro_batch_tokens=40)
    learner.update(examples())
    before = snapshot(learner)
    bad = examples()
    assert bad[4].advantages is not None
    bad[4].advantages[0] = np.inf
    with pytest.raises(NonFiniteError, match="loss not finite at optimizer step 1") as error:
        learner.update(bad)
    assert all(torch.equal(before[name], tensor) for name, tensor in learner.weights())
    [file] = (tmp_path / "debug").iterdir()
    assert str(file) in str(error.value)
    with np.load(file) as saved:
        assert np.isinf(saved["0/advantages"]).sum() == 1
        assert "1/advantages" not in saved


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_non_finite_gradient_stops_before_the_optimizer_moves(make: Make, tmp_path: Path, stage: int) -> None:
    learner = make(zero_stage=stage)
    before = snapshot(learner)
    learner.engine.trainable[3].register_hook(lambda gradient: gradient * float("nan"))
    with pytest.raises(NonFiniteError, match="gradient not finite"):
        learner.update(examples())
    assert all(torch.equal(before[name], tensor) for name, tensor in learner.weights())
    assert list((tmp_path / "debug").iterdir())


@pytest.mark.parametrize("stage", [0, 3])
def test_the_kl_of_the_start_model_is_exactly_0_also_far_into_a_sequence(make: Make, stage: int) -> None:
    """Angles of rotary embeddings computed in bfloat16 would be off by over 1 at such distances. k2 is a square: 0
    where each log-prob is that of the reference to the bit."""
    algorithm = GrpoConfig(kl_coef=1e-3, kl_estimator="k2")
    learner = make(algorithm, dtype="bfloat16", zero_stage=stage, micro_batch_tokens=4096)
    rng = np.random.default_rng(0)
    prompt, completion = (rng.integers(0, 97, size).astype(np.int32) for size in (8, 4088))
    ones = np.ones(4088, np.float32)
    long = Example(prompt, completion, loss_mask=ones, advantages=ones, rollout_logps=-4.5 * ones)
    frozen = learner._reference._model
    assert frozen is not None
    buffers = [*learner.engine.policy.buffers(), *(tensor for tensor in frozen.tensors or () if not is_weight(tensor))]
    assert {buffer.dtype for buffer in buffers} == {torch.float32}
    assert learner.update([long])["learner/kl"] == 0


def is_weight(tensor: torch.Tensor) -> bool:
    return isinstance(tensor, torch.nn.Parameter)


@pytest.mark.parametrize(
    "settings", [{"gradient_checkpointing": True}, {"logit_chunk_tokens": 5}, {"layout": "packed"}]
)
def test_memory_savers_do_not_change_gradients(make: Make, settings: dict[str, Any]) -> None:
    gradients = []
    for chosen in ({}, settings):
        learner = make(**chosen)
        learner.forward_backward(examples())
        gradients.append(torch.cat([p.grad.flatten() for p in learner.engine.trainable if p.grad is not None]))
    difference = (gradients[0] - gradients[1]).norm() / gradients[0].norm()
    assert difference <= 1e-5


def test_lora_trains_adapters_only_and_exports_the_merged_model(make: Make, tiny_model: Path, tmp_path: Path) -> None:
    learner = make(lora=LoraConfig(rank=4))
    frozen = {n: p.clone() for n, p in learner.engine.policy.model.named_parameters() if ".lora_" not in n}
    for _ in range(3):
        learner.update(examples())
    for name, parameter in learner.engine.policy.model.named_parameters():
        assert parameter.requires_grad == (".lora_" in name)
        assert ".lora_" in name or torch.equal(frozen[name], parameter)
    learner.save_model(tmp_path / "saved")
    start = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "saved", dtype=torch.float32)
    from peft import PeftModel

    adapted = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32), tmp_path / "saved" / "adapter"
    )
    with learner.engine.policy.without_adapter():
        adapter_off = learner.logprobs(examples())
    for example, on, off in zip(examples(), learner.logprobs(examples()), adapter_off, strict=True):
        assert transformers_logps(merged, example) == pytest.approx(on, abs=1e-5)
        assert transformers_logps(adapted, example) == pytest.approx(on, abs=1e-5)
        assert transformers_logps(start, example) == pytest.approx(off, abs=1e-5)
        assert np.abs(on - off).max() > 1e-3


def test_adapters_of_gpt2_are_merged_into_its_transposed_weights(make: Make, tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(vocab_size=97, n_embd=32, n_layer=2, n_head=2, n_positions=64, initializer_range=0.1)
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "start")
    learner = make(model=tmp_path / "start", lora=LoraConfig(rank=4))
    for _ in range(3):
        learner.update(examples())
    learner.save_model(tmp_path / "saved")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "saved", dtype=torch.float32)
    for example, logps in zip(examples(), learner.logprobs(examples()), strict=True):
        assert transformers_logps(merged, example) == pytest.approx(logps, abs=1e-5)


def test_saved_model_is_a_whole_hugging_face_folder(make: Make, tiny_model: Path, tmp_path: Path) -> None:
    learner = make()
    learner.update(examples())
    learner.save_model(tmp_path / "saved")
    names = {file.name for file in (tmp_path / "saved").iterdir()}
    assert {"config.json", "generation_config.json", "model.safetensors", "tokenizer_config.json"} <= names
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "saved", dtype=torch.float32)
    for example, logps in zip(examples(), learner.logprobs(examples()), strict=True):
        assert transformers_logps(model, example) == pytest.approx(logps, abs=2e-6)


def test_weights_come_once_under_their_hugging_face_names(make: Make, tiny_model: Path) -> None:
    expected = [
        name for name, _ in AutoModelForCausalLM.from_pretrained(tiny_model).named_parameters(remove_duplicate=True)
    ]
    for lora in (None, LoraConfig(rank=2)):
        learner = make(lora=lora)
        assert [name for name, _ in learner.weights()] == expected
        assert [(name, tuple(t.shape), t.dtype) for name, t in learner.weights()] == learner.weight_metadata()
    assert "lm_head.weight" not in expected


def test_shards_of_a_large_model_load(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from raylign.learners.model import export

    monkeypatch.setattr(export, "SHARD_BYTES", 60_000)
    monkeypatch.setattr(export, "GATHER_BYTES", 40_000)
    learner = make()
    learner.save_model(tmp_path / "saved")
    assert len(list((tmp_path / "saved").glob("model-*.safetensors"))) > 2
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "saved", dtype=torch.float32)
    for (name, tensor), (loaded_name, loaded) in zip(learner.weights(), model.named_parameters(), strict=True):
        assert name == loaded_name
        assert torch.equal(tensor, loaded)


def test_bad_settings_are_answered_before_training(make: Make, tmp_path: Path, tiny_model: Path) -> None:
    with pytest.raises(ValueError, match="temperature is 0"):
        make(temperature=0.0)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "config.json").write_text((tiny_model / "config.json").read_text())
    with pytest.raises(ValueError, match="holds no weights"):
        make(model=tmp_path / "empty")
    with pytest.raises(ValueError, match="leave lm_head out"):
        make(lora=LoraConfig(target_modules=["lm_head"]))


def test_packing_is_refused_where_attention_would_be_wrong(make: Make, tiny_model: Path, tmp_path: Path) -> None:
    import json
    import shutil

    folder = shutil.copytree(tiny_model, tmp_path / "sliding")
    settings = json.loads((folder / "config.json").read_text())
    settings |= {
        "use_sliding_window": True,
        "sliding_window": 4,
        "layer_types": ["full_attention", "sliding_attention"],
    }
    (folder / "config.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match="packing needs full attention"):
        make(model=folder, layout="packed")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    for example, logps in zip(examples(), make(model=folder).logprobs(examples()), strict=True):
        assert logps == pytest.approx(transformers_logps(model, example), abs=2e-6)


def gradient(learner: Learner) -> torch.Tensor:
    return torch.cat([p.grad.flatten() for p in learner.engine.trainable if p.grad is not None]).clone()


def with_zeros(made: list[Example]) -> list[Example]:
    return [
        replace(example, advantages=np.zeros_like(example.loss_mask)) if number % 2 else example
        for number, example in enumerate(made)
    ]


@pytest.mark.parametrize(
    "algorithm",
    [GrpoConfig(), GrpoConfig(aggregation="seq_mean_token_mean"), GspoConfig(), CispoConfig(), RlooConfig()],
    ids=repr,
)
def test_leaving_out_sequences_without_advantage_keeps_the_gradient(make: Make, algorithm: AnyAlgorithmConfig) -> None:
    batch = with_zeros(examples())
    skipping, running = make(algorithm), make(algorithm)
    running.objective.skips_zero_advantages = False
    fewer, all_of_them = (values_of(learner.forward_backward(batch)) for learner in (skipping, running))
    lengths = [len(example.completion_ids) for example in batch]
    assert fewer["learner/skipped_share"] == pytest.approx(sum(lengths[1::2]) / sum(lengths))
    assert all_of_them["learner/skipped_share"] == 0
    assert fewer["learner/loss"] == pytest.approx(all_of_them["learner/loss"], rel=1e-6)
    torch.testing.assert_close(gradient(skipping), gradient(running), rtol=1e-5, atol=1e-8)
    # the meters are those of the sequences that were run
    alone = values_of(make(algorithm).forward_backward(batch[::2]))
    for key in ("mismatch/mean_abs_logp_difference", "mismatch/geometric_mean_ratio", "learner/entropy"):
        assert fewer[key] == pytest.approx(alone[key], rel=1e-6)


def test_nothing_is_left_out_where_kl_or_entropy_reach_every_token(make: Make) -> None:
    for algorithm in (GrpoConfig(kl_coef=0.1), GrpoConfig(entropy_coef=0.1)):
        assert make(algorithm).update(with_zeros(examples()))["learner/skipped_share"] == 0


def test_the_entropy_bonus_raises_entropy(make: Make) -> None:
    flat = [replace(e, advantages=np.zeros_like(e.loss_mask)) for e in examples()]
    learner = make(GrpoConfig(entropy_coef=1.0))
    found = [learner.update(flat) for _ in range(4)]
    assert found[3]["learner/entropy"] > found[0]["learner/entropy"] + 1e-3
    assert found[0]["learner/loss"] == pytest.approx(-found[0]["learner/entropy"], rel=1e-6)
    chunked = make(GrpoConfig(entropy_coef=1.0), logit_chunk_tokens=7)
    assert chunked.update(flat)["learner/grad_norm"] == pytest.approx(found[0]["learner/grad_norm"], rel=1e-5)


def test_the_weight_of_an_example_scales_its_policy_loss_only(make: Make) -> None:
    batch = examples()
    heavy = [replace(example, weight=2.0) for example in batch]
    plain = make().forward_backward(batch)["learner/loss"].value
    assert make().forward_backward(heavy)["learner/loss"].value == pytest.approx(2 * plain, rel=1e-6)
    flat = [replace(e, advantages=np.zeros_like(e.loss_mask), weight=2.0) for e in batch]
    entropy = values_of(make(GrpoConfig(entropy_coef=1.0)).forward_backward(flat))
    assert entropy["learner/loss"] == pytest.approx(-entropy["learner/entropy"], rel=1e-6)


def test_stale_tokens_are_stopped_before_the_optimizer_moves(make: Make) -> None:
    learner = make(max_staleness=1)
    aged = [
        replace(example, token_versions=np.full(len(example.completion_ids), 3 + number % 2, np.int32))
        for number, example in enumerate(examples())
    ]
    with pytest.raises(StalenessError, match="older than the bound of 1"):
        learner.update(aged, version=5)
    assert learner.engine.num_steps == 0
    metrics = learner.update(aged, version=4)
    assert metrics["staleness/max"] == 1
    assert metrics["staleness/share_0"] + metrics["staleness/share_1"] == pytest.approx(1)
    assert metrics["mismatch/truncated_share"] >= 0  # decoupled by default
    assert metrics["mismatch/min_ratio"] < metrics["mismatch/mean_ratio"] < metrics["mismatch/max_ratio"]


def test_a_single_asynchronous_step_makes_no_extra_forward_pass(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    learner = make(max_staleness=1)
    calls = []
    whole = learner.engine.logprobs

    def counted(batches: Any) -> Any:
        calls.append(len(batches))
        return whole(batches)

    monkeypatch.setattr(learner.engine, "logprobs", counted)
    aged = [replace(e, token_versions=np.zeros(len(e.completion_ids), np.int32)) for e in examples()]
    learner.update(aged, version=1)
    assert not calls


def test_loglinear_proximal_is_exact_in_the_first_of_several_steps(make: Make) -> None:
    aged = [replace(e, token_versions=np.zeros(len(e.completion_ids), np.int32)) for e in examples()]
    settings = {"max_staleness": 2, "learning_rate": 1e-9}
    correction = CorrectionConfig(kind="decoupled", proximal="loglinear")
    approximate = make(GrpoConfig(num_updates=2, correction=correction), **settings)
    with pytest.raises(ValueError, match="must be told the version"):
        approximate.update(aged)
    # with a learning rate of nearly 0 the policy does not move: π_prox of the first step is the policy itself, and in
    # the second, half a version on, α = 2 / 2.5
    first = approximate._prepared([aged[:4], aged[4:]], version=2)
    assert first[0][0].proximal_share == pytest.approx(1.0)
    assert first[1][0].proximal_share == pytest.approx(0.8)
    assert np.isfinite(approximate.update(aged, version=2)["learner/loss"])
