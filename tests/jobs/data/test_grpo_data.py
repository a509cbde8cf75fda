"""`raylign data grpo` and `data sft` without an engine: what they write, count, keep, refuse and take up again."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from raylign.jobs.cli import run_command_line
from raylign.jobs.config.loading import ConfigError, load_config
from raylign.jobs.data import pool_scores
from raylign.jobs.data.draw_log import DrawIdentity, DrawLog
from raylign.jobs.data.grpo import automatic_name, grpo_data
from raylign.jobs.data.grpo_config import GrpoDataConfig
from raylign.jobs.data.policy_identity import policy_identity
from raylign.jobs.data.pool import read_pool, short_name
from raylign.jobs.data.pool_answers import answer_folder, drawn_answers
from raylign.jobs.data.sft import SftDataConfig, sft_data
from raylign.jobs.run.output_folder import hold
from raylign.rewards.overlap import bleu
from raylign.rollout.best_worst import Answer, AnswerSet
from tests.conftest import MakeModel
from tests.patience import HANGS_S

ANSWERS = ["the cat", "a dog sat", "", "the cat sat on the mat", "nothing of it", "the mat", "on the mat", "cats"]
GOLD = "the cat sat on the mat"


def pool_file(folder: Path, count: int = 8, **changes: Any) -> Path:
    rows = [
        {
            "id": f"x{n}",
            "source": "flan" if n % 2 else "chat",
            "messages": [{"role": "user", "content": f"say {n}"}, {"role": "assistant", "content": "spoken"}],
            "ref_output_gold": GOLD,
            "ref_output_o4-mini-2025-04-16": None if n == 1 else f"a cat sat, {n}",
            **changes,
        }
        for n in range(count)
    ]
    path = folder / "pool.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def answers_file(folder: Path, answers: Sequence[str] = ANSWERS, prompt: str = "say {}") -> Path:
    path = folder / "tiny_inference_results.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "source", "prompt", "response"])
        writer.writerows([f"x{n}", "", prompt.format(n), text] for n, text in enumerate(answers))
    return path


def configured(folder: Path, **values: Any) -> GrpoDataConfig:
    defaults: dict[str, Any] = {
        "data": {"source": str(folder / "pool.jsonl")},
        "metric": "bleu",
        "answers_csv": str(folder / "tiny_inference_results.csv"),
        "output_dir": str(folder / "out"),
    }
    return load_config(GrpoDataConfig, [], defaults | values)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    pool_file(tmp_path)
    answers_file(tmp_path)
    return tmp_path


def saved(path: Path) -> list[dict[str, Any]]:
    import datasets

    loaded = datasets.load_from_disk(str(path))
    assert list(loaded) == ["train"]
    rows: list[dict[str, Any]] = loaded["train"].to_list()
    return rows


def test_the_hardest_rows_are_written_with_the_published_columns(folder: Path) -> None:
    path = grpo_data(configured(folder, num_examples=3, parquet=True))
    assert path == folder / "out" / "data_grpo" / "pool_bleu_tiny_1ref-gold_hard_3"
    rows = saved(path)
    scores = {f"x{n}": bleu(text, [GOLD]) for n, text in enumerate(ANSWERS)}
    hardest = sorted(sorted(scores, key=lambda name: scores[name])[:3], key=lambda name: -scores[name])
    assert [row["id"] for row in rows] == hardest and scores["x2"] == 0
    assert list(rows[0]) == ["id", "source", "messages", "prompt", "ground_truth", "references", "bleu_score"]
    assert [row["bleu_score"] for row in rows] == [scores[name] for name in hardest]
    assert rows[-1] == {
        "id": "x2",
        "source": "chat",
        "messages": [{"role": "user", "content": "say 2"}, {"role": "assistant", "content": "spoken"}],
        "prompt": "say 2",
        "ground_truth": GOLD,
        "references": [GOLD],
        "bleu_score": 0.0,
    }
    summary = json.loads((path / "summary.json").read_text())
    assert (summary["rows_read"], summary["rows_selected"], summary["rows_not_selected"]) == (8, 3, 5)
    assert [(part["source"], part["rows"]) for part in summary["by_source"]] == [("chat", 4), ("flan", 4)]
    assert sum(part["selected"] for part in summary["by_source"]) == 3
    assert summary["lengths"]["all"]["mean_shortest_reference_words"] == 6
    assert (path / "scores.png").read_bytes().startswith(b"\x89PNG")
    import pyarrow.parquet

    assert pyarrow.parquet.read_table(path / "train.parquet").to_pylist() == rows


def test_a_half_written_parquet_pool_is_named(folder: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    rows = [json.loads(line) for line in (folder / "pool.jsonl").read_text().splitlines()]
    pool = folder / "pool.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), pool)
    pool.write_bytes(pool.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"pool\.parquet: .*Parquet"):
        grpo_data(configured(folder, data={"source": str(pool)}))


def test_references_are_gold_first_and_a_row_that_lacks_one_is_dropped_and_counted(folder: Path) -> None:
    path = grpo_data(configured(folder, ref_models=["o4-mini-2025-04-16", "gold"], selection_mode="easy"))
    assert path.name == "pool_bleu_tiny_2ref-gold-o4mini_easy_7"
    rows = saved(path)
    assert rows[0]["references"][0] == GOLD and len(rows[0]["references"]) == 2
    assert [json.loads(line)["row_id"] for line in (path / "dropped.jsonl").read_text().splitlines()] == ["x1"]
    assert json.loads((path / "summary.json").read_text())["rows_dropped"] == {"no reference o4-mini-2025-04-16": 1}


def test_random_rows_need_no_model_and_have_no_score(folder: Path) -> None:
    path = grpo_data(configured(folder, selection_mode="random", num_examples=3, metric=None, answers_csv=None))
    assert path.name == "pool_1ref-gold_random_3"
    assert [row["id"] for row in saved(path)] == ["x1", "x5", "x0"]  # RandomState(42) over eight rows
    assert "bleu_score" not in saved(path)[0] and not (path / "scores.png").exists()


def test_more_rows_than_there_are_means_all_and_is_said(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = grpo_data(configured(folder, num_examples=99))
    assert len(saved(path)) == 8
    assert "num_examples is 99, and there are no more" in capsys.readouterr().out


def test_references_may_be_a_list_in_one_column(folder: Path) -> None:
    pool_file(folder, references=[GOLD, "", "a cat"])
    pool = {"source": str(folder / "pool.jsonl"), "reference": "{references}", "prompt": "say {id}"}
    config = configured(folder, data=pool, selection_mode="random", num_examples=8)
    assert saved(grpo_data(config))[0]["references"] == [GOLD, "a cat"]
    assert automatic_name(config, 8) == "pool_refs_random_8"


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("claude-3-7-sonnet@20250219", "claude"),
        ("deepseek-chat-v3", "deepseek"),
        ("gemini-2.5-pro-exp-03-25", "gemini"),
        ("Llama-3.1-8B-Instruct", "llama"),
        ("o4-mini-2025-04-16", "o4mini"),
        ("gold", "gold"),
        ("mine/v2", "mine-v2"),
    ],
)
def test_short_names_of_references(name: str, short: str) -> None:
    assert short_name(name) == short


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"metric": None}, "metric is missing: selection_mode hard needs bleu, rouge"),
        ({"answers_csv": None}, r"model \(or answers_csv\) is missing"),
        ({"selection_mode": "random"}, "num_examples is missing: selection_mode random needs it"),
        ({"metric": "meteor"}, "metric: 'meteor' is not allowed"),
        ({"rewards": [{"name": "rouge"}]}, "metric and rewards both say"),
        ({"ref_models": []}, "ref_models is empty"),
        ({"inference_max_new_tokens": 4096}, "inference_max_new_tokens is 4096: with engine.max_model_len = 2048"),
        ({"hf_dataset_path": "another/pool"}, "both name the pool"),
        ({"output_dataset_name": "../mine"}, "output_dataset_name"),
        ({"metric": None, "rewards": [{"name": "bleu_rm", "model": "m"}]}, "compares several answers to one prompt"),
    ],
)
def test_a_config_that_makes_no_sense_is_refused(folder: Path, values: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        configured(folder, **values)


def test_the_originals_name_of_the_pool_is_another_name_of_ours(folder: Path) -> None:
    config = load_config(
        GrpoDataConfig, [], {"hf_dataset_path": str(folder / "pool.jsonl"), "metric": "bleu", "model": "m"}
    )
    assert config.data.source == str(folder / "pool.jsonl")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"ref_models": ["gold", "gpt-5"]}, "ref_models names gpt-5, .* there are: gold, o4-mini-2025-04-16"),
        ({"data": {"source": "pool.jsonl", "prompt": "{ask}"}}, "no column 'ask'"),
        ({"data": {"source": "pool.jsonl", "reference": "{all}"}}, "names column 'all'"),
        ({"answers_csv": "nowhere.csv"}, "nowhere.csv is not there"),
        ({"metric": "rm"}, "the model 'Skywork/.* is neither a folder here"),
        ({"metric": None, "rewards": [{"name": "reward_model", "model": "/nothing"}]}, "/nothing"),
    ],
)
def test_what_cannot_work_is_said_before_anything_is_written(
    folder: Path, values: dict[str, Any], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ValueError, match=words):
        grpo_data(configured(folder, **values))
    assert not (folder / "out").exists()


def test_a_table_of_other_prompts_or_half_of_one_is_noticed(folder: Path) -> None:
    answers_file(folder, ANSWERS[:5])
    path = grpo_data(configured(folder))
    assert json.loads((path / "summary.json").read_text())["rows_dropped"] == {"no answer": 3}
    answers_file(folder, prompt="what is {}?")
    with pytest.raises(ValueError, match=r"id x0 answers 'what is 0.', and the pool asks 'say 0'"):
        grpo_data(configured(folder))


def test_scores_are_kept_by_content_and_never_by_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scored: list[str] = []
    real = pool_scores._totals

    def counted(scorer: Any, items: Any) -> Any:
        scored.extend(item.completions[0] for item in items)
        return real(scorer, items)

    monkeypatch.setattr(pool_scores, "_totals", counted)
    grpo_data(configured(folder, num_examples=2))
    assert sorted(scored) == sorted(text for text in ANSWERS if text)
    scored.clear()
    grpo_data(configured(folder, num_examples=3))
    assert scored == []
    (cache,) = (folder / "out" / "scored_outputs").glob("*.jsonl")
    lines = cache.read_bytes().splitlines(keepends=True)
    cache.write_bytes(b"".join(lines[:-2]) + lines[-1][:20])  # as a death leaves it: two lines lost, one of them half
    grpo_data(configured(folder, num_examples=4))
    assert len(scored) == 2
    scored.clear()
    answers_file(folder, ["another answer", *ANSWERS[1:]])
    grpo_data(configured(folder, num_examples=5))
    assert scored == ["another answer"]
    scored.clear()
    grpo_data(configured(folder, num_examples=5, ref_models=["gold", "o4-mini-2025-04-16"]))
    assert len(scored) == 6  # against other references all is scored anew; row 1 has none, row 2 no answer


def test_the_same_again_is_left_untouched_and_another_content_under_its_name_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = grpo_data(configured(folder, output_dataset_name="mine", num_examples=3))
    before = (path / "summary.json").read_bytes()
    assert grpo_data(configured(folder, output_dataset_name="mine", num_examples=3)) == path
    assert "holds the same data set already" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"exists with another content:\n  num_examples: 3 -> 4"):
        grpo_data(configured(folder, output_dataset_name="mine", num_examples=4))
    pool_file(folder, source="elsewhere")
    with pytest.raises(ValueError, match=r"exists with another content:\n  data: "):
        grpo_data(configured(folder, output_dataset_name="mine", num_examples=3))
    assert (path / "summary.json").read_bytes() == before
    (folder / "out" / "data_grpo" / "notes").mkdir()
    with pytest.raises(ValueError, match="says nothing of what decided its rows"):
        grpo_data(configured(folder, output_dataset_name="notes", num_examples=3))


def test_two_jobs_do_not_write_one_cache(folder: Path) -> None:
    cache = folder / "out" / "scored_outputs"
    cache.mkdir(parents=True)
    with hold(cache), pytest.raises(ValueError, match="another process is writing"):
        grpo_data(configured(folder))


def test_many_are_scored_by_several_processes_with_the_same_scores(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = saved(grpo_data(configured(folder, num_processes=1)))
    monkeypatch.setattr(pool_scores, "LEAST_ROWS_FOR_PROCESSES", 1)
    several = saved(grpo_data(configured(folder, num_processes=2, output_dir=str(folder / "again"))))
    assert several == one


def test_drawn_answers_serve_other_references_and_outlive_a_broken_draw(
    folder: Path, make_tiny_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_tiny_model("qwen3", True)
    engine = {"max_model_len": 64}
    values = {"answers_csv": None, "model": str(model), "engine": engine, "inference_max_new_tokens": 8}
    config = configured(folder, **values)
    asked: list[list[int]] = []

    async def answer(drawing: Any, prompts: Any, log: DrawLog, report: Any) -> None:
        missing = [prompt for prompt in prompts if prompt.ordinal not in log.drawn]
        asked.append([prompt.ordinal for prompt in missing])
        assert (drawing.sampling.top_p, drawing.sampling.temperature, drawing.sampling.num_completions) == (0.9, 0.7, 1)
        for prompt in missing[:3] if len(asked) == 1 else missing:
            said = Answer(f" {ANSWERS[prompt.ordinal]}\n", (1, 2), True)
            log.append(AnswerSet(prompt.ordinal, prompt.prompt_id, prompt.text, (said,), (None,), {},
                                 policy_identity(str(model)), 42, prompt.fingerprint))  # fmt: skip

    monkeypatch.setattr("raylign.jobs.data.pool_answers.draw", answer)
    monkeypatch.setattr("raylign.jobs.data.pool_answers.ray_cluster", lambda _: hold_nothing())
    grpo_data(config)
    path = grpo_data(configured(folder, **values, ref_models=["gold", "o4-mini-2025-04-16"]))
    assert asked == [list(range(8)), [3, 4, 5, 6, 7]]
    assert len(saved(path)) == 7
    pool = read_pool(config)
    assert drawn_answers(config, pool).answers[3].text == GOLD
    with answer_folder(config, pool) as kept:
        rows = list(csv.DictReader((kept / "inference_results.csv").open(newline="")))
        assert [row["response"] for row in rows] == ANSWERS and rows[0]["id"] == "x0"
        with pytest.raises(ValueError, match="another process is writing"):
            grpo_data(config)
    with (
        pytest.raises(ValueError, match="drawn from other data"),
        DrawLog(kept / "draws.jsonl", DrawIdentity(policy_identity(str(model)), "other", 1)),
    ):
        pass


class hold_nothing:
    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


def test_a_model_without_a_chat_template_stops_with_what_to_set(folder: Path, make_tiny_model: MakeModel) -> None:
    import shutil

    model = folder / "model"
    shutil.copytree(make_tiny_model("qwen3", True), model)
    (model / "chat_template.jinja").unlink(missing_ok=True)
    settings = json.loads((model / "tokenizer_config.json").read_text())
    settings.pop("chat_template", None)
    (model / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match="no chat template; set `template` to a plain one"):
        grpo_data(configured(folder, answers_csv=None, model=str(model), engine={"max_model_len": 600}))


def test_every_reference_becomes_a_demonstration(folder: Path) -> None:
    path = grpo_data(
        configured(
            folder,
            data={
                "source": str(pool_file(folder, 2, **{"ref_output_mine": "m", "ref_output_o4-mini-2025-04-16": "o"}))
            },
            ref_models=["mine", "gold", "o4-mini-2025-04-16"],
            selection_mode="random",
            num_examples=9,
        )
    )
    config = SftDataConfig(input_data_path=path, output_dir=folder / "out")
    output = sft_data(config)
    assert output == folder / "out" / "data_sft" / f"{path.name}_SFT"
    rows = saved(output)
    assert [row["id"] for row in rows] == ["x0_0", "x0_1", "x0_2", "x1_0", "x1_1", "x1_2"]
    assert [row["messages"][1]["content"] for row in rows] == [GOLD, "m", "o"] * 2
    assert rows[3] == {
        "id": "x1_0",
        "source": "flan",
        "messages": [{"role": "user", "content": "say 1"}, {"role": "assistant", "content": GOLD}],
    }
    before = (output / "summary.json").read_bytes()
    assert sft_data(config) == output and (output / "summary.json").read_bytes() == before


@pytest.mark.parametrize("module", ["data.sft", "data.grpo_config"])
def test_demonstrations_need_neither_vllm_nor_ray(module: str) -> None:
    heavy = ("torch", "vllm", "deepspeed", "ray", "transformers", "datasets", "matplotlib")
    program = f"import sys, raylign.jobs.{module}; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=HANGS_S)
    assert done.stdout.strip() == "[]", done.stderr


def test_the_commands_say_what_is_wrong(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command_line(["data", "sft", "--input_data_path", str(folder)]) == 2
    assert "is no folder saved by `datasets`" in capsys.readouterr().err
    words = ["data", "grpo", "--hf_dataset_path", str(folder / "pool.jsonl"), "--metric", "bleu", "--model", "m"]
    assert run_command_line([*words, "--ref_models", "gold", "claude", "--output_dir", str(folder / "out")]) == 2
    assert "ref_models names claude" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run_command_line(["data", "grpo", "--help"])
    assert "--selection_mode" in capsys.readouterr().out
