"""Soft labels for preference pairs."""

from __future__ import annotations

import asyncio
import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest

from raylign.actors.reward_server import RewardServer
from raylign.jobs.cli import run_command_line
from raylign.jobs.data.pair_scores import NotScored, PairScores, new_columns, score_all
from raylign.jobs.data.pairs_to_score import read_pairs
from raylign.jobs.data.row_journal import RowJournal
from raylign.jobs.data.score_pairs import examine_score_pairs, score_pairs
from raylign.jobs.data.score_pairs_config import ScorePairsConfig
from raylign.jobs.init_model import InitModelConfig, init_model
from raylign.rollout.data.config import DataConfig
from raylign.rollout.data.sources import read_rows
from raylign.rollout.sample import Group
from tests.jobs.stand_ins import TWO_CORES

ROWS = [
    {"prompt": "1 + 1 =", "chosen": "2", "rejected": "3", "answer": 2, "kept": "yes"},
    {"prompt": "2 + 2 =", "chosen": "5", "rejected": "4", "answer": 4, "kept": "yes"},
    {"prompt": "3 + 3 =", "chosen": "broken", "rejected": "6", "answer": 6, "kept": "yes"},
]
REWARD = """
def reward(completions, references, **_):
    if "broken" in completions:
        raise RuntimeError("cannot read it")
    return [float("nan") if text == "nan" else 2.0 * (text == references[0]) - 1.0 for text in completions]
"""
DIGITS = {"name": "regex", "pattern": "[0-9]"}


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def config_of(tmp_path: Path, source: Path, **keys: Any) -> ScorePairsConfig:
    data = {"source": str(source), "prompt": "{prompt}", "reference": None, "shuffle": False} | keys.pop("data", {})
    return ScorePairsConfig.model_validate({"folder": tmp_path / "out", "data": data, "rewards": [DIGITS], **keys})


@pytest.fixture
def values(tmp_path: Path) -> dict[str, Any]:
    pairs, reward = write(tmp_path / "pairs.jsonl", ROWS), tmp_path / "reward.py"
    reward.write_text(REWARD)
    data = {"source": str(pairs), "prompt": "{prompt}", "reference": "{answer}", "template": "{prompt}"}
    return {
        "folder": tmp_path / "out",
        "data": {**data, "shuffle": False},
        "rewards": [{"name": "function", "path": f"{reward}:reward"}],
    }


def test_scores_and_probabilities_stand_beside_the_row_as_it_was(values: dict[str, Any], tmp_path: Path) -> None:
    summary = score_pairs(ScorePairsConfig.model_validate({**values, "num_repeats": 2}))
    first, second = lines_of(tmp_path / "out" / "scored.jsonl")
    assert (first["chosen_score"], first["rejected_score"]) == (1.0, -1.0)
    assert first["bt_prob"] == pytest.approx(0.880797, abs=1e-6)
    assert second["bt_prob"] == pytest.approx(1 - 0.880797, abs=1e-6)
    assert {key: first[key] for key in ROWS[0]} == ROWS[0]
    assert summary["failed"] == 1 and summary["left_out"] == {"not scored (exception)": 1}
    assert "row 3: function: RuntimeError: cannot read it" in summary["first_failures"][0]
    with pytest.raises(ValueError, match="go on with it by --resume"):
        score_pairs(ScorePairsConfig.model_validate(values))


def test_the_three_documented_columns_need_one_key_and_no_model(tmp_path: Path) -> None:
    rows = [{key: row[key] for key in ("prompt", "chosen", "rejected")} for row in ROWS]
    pairs = write(tmp_path / "pairs.jsonl", rows)
    words = ["--folder", str(tmp_path / "out"), "--data.source", str(pairs), "--rewards", json.dumps([DIGITS])]
    assert run_command_line(["data", "score-pairs", *words]) == 0
    scored = lines_of(tmp_path / "out" / "scored.jsonl")
    assert [{key: row[key] for key in rows[0]} for row in scored] == rows, "in the order of the file, unchanged"
    assert [row["bt_prob"] for row in scored] == pytest.approx([0.5, 0.5, 0.268941], abs=1e-6)


def test_a_model_s_template_writes_what_rewards_see_and_never_the_user_s_column(tmp_path: Path) -> None:
    shape = {"num_layers": 1, "width": 32, "num_heads": 1, "num_kv_heads": 1}
    rows = [{**ROWS[0], "chosen": "2 3 4 5 6", "rejected": "2"}]
    pairs = write(tmp_path / "pairs.jsonl", rows)
    data = DataConfig(source=str(pairs), prompt="{prompt}", reference="{chosen}", template="Q: {prompt}")
    model = init_model(InitModelConfig(output=tmp_path / "model", data=data, **shape))  # type: ignore[arg-type]
    length = {"name": "length", "free_tokens": 0, "max_tokens": 100}
    template = {"data": {"template": "Q: {prompt}"}}
    config = config_of(tmp_path, pairs, model=str(model), rewards=[length], **template)
    assert read_pairs(config)[0].pairs[0].prompt.endswith("Q: 1 + 1 =")
    score_pairs(config)
    (row,) = lines_of(tmp_path / "out" / "scored.jsonl")
    assert row["prompt"] == "1 + 1 ="
    assert row["chosen_score"] < row["rejected_score"] < 0, "longer, in tokens of the model"
    with pytest.raises(ValueError, match="length counts tokens: give the model"):
        config_of(tmp_path, pairs, rewards=[length])


def test_equal_pairs_stay_at_a_half_and_what_is_left_out_is_counted_by_reason(
    values: dict[str, Any], tmp_path: Path
) -> None:
    rows = [
        {**ROWS[0], "rejected": "2"},
        {**ROWS[0], "chosen": " "},
        {**ROWS[0], "rejected": ""},
        {**ROWS[0], "chosen": "nan"},
        ROWS[0],
        ROWS[1],
    ]
    write(tmp_path / "pairs.jsonl", rows)
    summary = score_pairs(ScorePairsConfig.model_validate({**values, "every": 1}))
    scored = lines_of(tmp_path / "out" / "scored.jsonl")
    assert [row["bt_prob"] for row in scored] == pytest.approx([0.5, 0.880797, 0.119203], abs=1e-6)
    assert scored[0]["chosen_score"] == scored[0]["rejected_score"] and summary["equal_pairs"] == 1
    reasons = {"empty chosen answer": 1, "empty rejected answer": 1, "the score is not finite": 1}
    assert summary["left_out"] == reasons
    dropped = lines_of(tmp_path / "out" / "dropped.jsonl")
    assert [(line["row"], line["reason"]) for line in dropped] == list(zip([1, 2, 3], reasons, strict=True))
    write(tmp_path / "pairs.jsonl", rows[1:3])
    with pytest.raises(ValueError, match="not one pair can be scored: 1 empty chosen answer, 1 empty rejected answer"):
        score_pairs(ScorePairsConfig.model_validate({**values, "folder": tmp_path / "other"}))


def test_several_scorers_have_columns_of_their_own_and_a_cost_counts_against_an_answer(tmp_path: Path) -> None:
    cost = {**DIGITS, "pattern": "x", "weight": -2.0}
    rows = [{"prompt": "p", "chosen": "1", "rejected": "x"}]
    config = config_of(tmp_path, write(tmp_path / "pairs.jsonl", rows), rewards=[DIGITS, cost])
    score_pairs(config)
    (row,) = lines_of(tmp_path / "out" / "scored.jsonl")
    assert (row["chosen_score"], row["rejected_score"]) == (1.0, -2.0)
    assert (row["chosen_score_regex_2"], row["rejected_score_regex_2"]) == (0.0, 1.0), "unweighted"
    assert row["bt_prob_regex"] == row["bt_prob_regex_2"] == pytest.approx(0.731059, abs=1e-6)
    each = new_columns(PairScores(([1.0], [0.0]), {"a": ([None], [None])}), False, {}, "each", "_new")
    assert each == {"chosen_score_a_new": None, "rejected_score_a_new": None, "bt_prob_a_new": None}


def test_every_takes_the_kth_row_and_below_one_repeats(tmp_path: Path) -> None:
    rows = [{"prompt": f"p{n}", "chosen": "1", "rejected": "x"} for n in range(5)]
    pairs = write(tmp_path / "pairs.jsonl", rows)
    summary = score_pairs(config_of(tmp_path, pairs, every=2))
    assert [row["prompt"] for row in lines_of(tmp_path / "out" / "scored.jsonl")] == ["p0", "p2", "p4"]
    assert summary["left_out"] == {"not every k-th row": 2}
    assert config_of(tmp_path, pairs, every=0.33, num_repeats=2).repeats == 6


def test_the_mean_of_probabilities_is_not_the_probability_of_the_mean() -> None:
    line = new_columns(PairScores(([1.0, 3.0], [0.0, 0.0])), False, {}, "sum", "")
    assert line["bt_prob"] == pytest.approx(0.841816, abs=1e-6)


def test_columns_of_the_data_are_never_overwritten(tmp_path: Path) -> None:
    pairs = write(tmp_path / "pairs.jsonl", [{**ROWS[0], "chosen_score": 7}])
    with pytest.raises(ValueError, match=r"has a column chosen_score already.*--suffix _new"):
        score_pairs(config_of(tmp_path, pairs))
    score_pairs(config_of(tmp_path, pairs, suffix="_new"))
    (row,) = lines_of(tmp_path / "out" / "scored.jsonl")
    assert row["chosen_score"] == 7 and "bt_prob_new" in row


def test_all_splits_of_a_saved_folder_come_back_as_they_were(tmp_path: Path) -> None:
    import datasets

    features = datasets.Features({**dict.fromkeys(("prompt", "chosen", "rejected"), datasets.Value("string"))})
    features["kind"] = datasets.ClassLabel(names=["a", "b"])
    one = {"prompt": "p", "chosen": "1", "rejected": "x", "kind": 1}
    parts = {
        "train": datasets.Dataset.from_list([one, {**one, "chosen": ""}, {**one, "prompt": "q"}], features=features),
        "test": datasets.Dataset.from_list([one], features=features),
    }
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "saved"))
    summary = score_pairs(config_of(tmp_path, tmp_path / "saved", data={"split": "all"}))
    loaded = datasets.load_from_disk(str(tmp_path / "out" / "scored"))
    assert {split: part["prompt"] for split, part in loaded.items()} == {"train": ["p", "q"], "test": ["p"]}
    assert loaded["train"].features["kind"] == features["kind"] and loaded["test"]["bt_prob"] == [
        pytest.approx(0.731059, abs=1e-6)
    ]
    assert summary["splits"]["train"] == {"rows": 3, "pairs": 2, "left_out": {"empty chosen answer": 1}}
    assert len(lines_of(tmp_path / "out" / "scored_train.jsonl")) == 2
    score_pairs(config_of(tmp_path, tmp_path / "saved", folder=tmp_path / "one", data={"split": "test"}))
    assert datasets.load_from_disk(str(tmp_path / "one" / "scored")).num_rows == 1


def test_files_come_back_in_their_format_and_a_folder_s_splits_as_files(tmp_path: Path) -> None:
    rows = [{"prompt": "p", "chosen": "1", "rejected": "x", "id": "007"}]
    new = ["chosen_score", "rejected_score", "bt_prob"]
    write(tmp_path / "shards" / "train.jsonl", rows)
    write(tmp_path / "shards" / "test.jsonl", rows)
    score_pairs(config_of(tmp_path, tmp_path / "shards", data={"split": "all"}))
    assert [list(row) for row in read_rows(str(tmp_path / "out" / "scored"), split="test")] == [[*rows[0], *new]]
    table = tmp_path / "pairs.csv"
    table.write_text("prompt,chosen,rejected,id\np,1,x,007\n")
    score_pairs(config_of(tmp_path, table, folder=tmp_path / "csv"))
    (row,) = csv.DictReader((tmp_path / "csv" / "scored.csv").open())
    assert row["id"] == "007" and list(row) == [*rows[0], *new]
    pa.parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "pairs.parquet")
    score_pairs(config_of(tmp_path, tmp_path / "pairs.parquet", folder=tmp_path / "parquet"))
    assert pa.parquet.read_table(tmp_path / "parquet" / "scored.parquet").column_names == [*rows[0], *new]


def test_rows_of_other_formats_keep_their_columns_and_rows_without_a_pair_are_counted(tmp_path: Path) -> None:
    pku = {"prompt": "q", "response_0": "1", "response_1": "x", "better_response_id": 1}
    config = config_of(tmp_path, write(tmp_path / "p.jsonl", [pku]), data={"pairs": {"format": "pku_better"}})
    score_pairs(config)
    (row,) = lines_of(tmp_path / "out" / "scored.jsonl")
    assert list(row) == [*pku, "chosen_score", "rejected_score", "bt_prob"] and row["rejected_score"] == 1.0
    answers = [{"response": text, "overall_score": score} for text, score in zip("1xyz", (1, 2, 3, 4), strict=True)]
    tied = [{**answer, "overall_score": 5} for answer in answers]
    rows = [{"instruction": "q", "completions": tied}, {"instruction": "r", "completions": answers}]
    path = write(tmp_path / "u.jsonl", rows)
    config = config_of(tmp_path, path, folder=tmp_path / "u", data={"pairs": {"format": "ultrafeedback"}})
    assert score_pairs(config)["left_out"] == {"no pair in the row": 1}
    (row,) = lines_of(tmp_path / "u" / "scored.jsonl")
    assert row["completions"] == answers, "the user's row"


def test_what_was_scored_is_not_scored_again_and_servers_share_what_is_left(tmp_path: Path) -> None:
    rows = [{"prompt": f"p{n}", "chosen": "1", "rejected": "x"} for n in range(200)]
    config = config_of(tmp_path, write(tmp_path / "pairs.jsonl", rows))
    pairs = read_pairs(config)[0].pairs
    asked: list[list[str]] = [[], []]

    async def score(stops_after: int | None) -> list[PairScores | NotScored]:
        server = RewardServer(config.rewards)

        def counted(number: int) -> Any:
            async def ask(groups: list[Group]) -> list[Group]:
                if stops_after is not None and sum(map(len, asked)) >= stops_after:
                    raise RuntimeError("the machine dies")
                asked[number] += [group.prompt.text for group in groups]
                await asyncio.sleep(0)
                return await server.score(groups)

            return ask

        with RowJournal(tmp_path / "scores.jsonl", "score-pairs") as journal:
            try:
                servers = [counted(0), counted(1)]
                return await score_all(pairs, config.rewards, 1, servers, journal, lambda text: (), lambda done: None)
            finally:
                await server.close()

    with pytest.raises(RuntimeError, match="the machine dies"):
        asyncio.run(score(stops_after=100))
    with (tmp_path / "scores.jsonl").open("a") as file:
        file.write('{"stage": "score-pairs", "row"')  # killed while it wrote
    before = sum(map(len, asked))
    done_before = [line for line in lines_of_whole(tmp_path / "scores.jsonl") if "result" in line]
    found = asyncio.run(score(stops_after=None))
    assert all(isinstance(one, PairScores) for one in found) and len(found) == 200
    assert sum(map(len, asked)) - before == 200 - len(done_before) > 0
    assert all(asked), "both servers had work"


def lines_of_whole(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]


def test_a_finished_job_is_written_again_from_its_journal(tmp_path: Path) -> None:
    pairs = write(tmp_path / "pairs.jsonl", [{"prompt": "p", "chosen": "1", "rejected": "x"}])
    score_pairs(config_of(tmp_path, pairs))
    (tmp_path / "out" / "scored.jsonl").unlink()
    score_pairs(config_of(tmp_path, pairs, resume=True, columns="each"))
    (row,) = lines_of(tmp_path / "out" / "scored.jsonl")
    assert row["chosen_score_regex"] == 1.0 and "chosen_score" not in row
    write(pairs, [{"prompt": "other", "chosen": "1", "rejected": "x"}])
    with pytest.raises(ValueError, match="have changed; put them back"):
        score_pairs(config_of(tmp_path, pairs, resume=True, columns="each"))


def test_a_folder_that_cannot_be_made_is_a_finding_before_anything_is_scored(tmp_path: Path) -> None:
    source = write(tmp_path / "pairs.jsonl", [{"prompt": "a", "chosen": "b", "rejected": "c"}])
    findings = examine_score_pairs(config_of(tmp_path, source, folder=source / "scored"), TWO_CORES)
    assert [each for each in findings.problems if "folder: " in each and "pairs.jsonl is a file" in each]


def test_without_a_reward_nothing_starts() -> None:
    with pytest.raises(ValueError, match="rewards is empty"):
        ScorePairsConfig()


@pytest.mark.slow
@pytest.mark.ray
def test_a_reward_model_scores_in_a_server_of_its_own(tmp_path: Path) -> None:
    from transformers import Qwen2Config, Qwen2ForSequenceClassification

    shape = {"num_layers": 1, "width": 32, "num_heads": 1, "num_kv_heads": 1}
    pairs = write(tmp_path / "pairs.jsonl", ROWS)
    data = DataConfig(source=str(pairs), prompt="{prompt}", reference="{chosen}", template="{prompt}")
    model = init_model(InitModelConfig(output=tmp_path / "model", data=data, **shape))  # type: ignore[arg-type]
    scorer = tmp_path / "scorer"
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 1}
    head = Qwen2Config(vocab_size=600, num_key_value_heads=1, num_labels=1, pad_token_id=0, **sizes)
    Qwen2ForSequenceClassification(head).save_pretrained(scorer)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (scorer / name).write_text((model / name).read_text())
    summary = score_pairs(config_of(tmp_path, pairs, rewards=[{"name": "reward_model", "model": str(scorer)}]))
    assert summary["pairs"] == 3 and summary["left_out"] == {}
    assert len(lines_of(tmp_path / "out" / "scored.jsonl")) == 3
