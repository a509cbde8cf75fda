"""Under ZeRO-3 no rank ever holds the whole model in memory of its own: files are mapped and cut tensor by tensor."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.learner_memory import MALLOC
from raylign.jobs.init_model import InitModelConfig, init_model
from raylign.rollout.data.config import DataConfig
from tests.learners.test_ranks import run_ranks

pytestmark = [pytest.mark.ray, pytest.mark.slow]
NUM_RANKS = 2


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_no_rank_holds_the_whole_model_while_it_loads(
    dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in MALLOC.items():  # what is freed is not held
        monkeypatch.setenv(name, value)
    rows = tmp_path / "rows.jsonl"
    rows.write_text("\n".join(json.dumps({"question": f"{n} + {n} =", "answer": str(2 * n)}) for n in range(99)))
    size = {"num_layers": 12, "width": 768, "num_heads": 12, "num_kv_heads": 12, "mlp_width": 3072}
    model = init_model(InitModelConfig(output=tmp_path / "model", data=DataConfig(source=str(rows)), **size))
    run_ranks(model, tmp_path, dtype, NUM_RANKS, module="tests.learners.load_memory")
    for rank in range(NUM_RANKS):
        found = json.loads((tmp_path / f"memory{rank}.json").read_text())
        print(f"\nrank {rank}, {dtype}: { ({key: round(value) for key, value in found.items()}) } MiB")
        share = 1 / NUM_RANKS + 0.2
        assert found["model"] > 200
        assert found["frozen_most"] <= share * found["model"]
        assert found["loaded"] <= share * found["model"]
        # what ZeRO-3 keeps is there at the end: on the way there is never as much more as would make it whole; masters
        # of bfloat16 weights are copied once, a rank's part of them
        copied = found["masters"] if dtype == "bfloat16" else 0.0
        assert found["most"] - found["end"] <= copied + 0.2 * found["model"]
