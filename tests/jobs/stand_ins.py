"""Local stand-ins for the models and data sets of recipes, so that they can be planned anywhere.

Given the words of a `raylign` command; gives what its checks before the start find, with one tiny model and small files
in place of everything that would have to be downloaded or trained first.
"""

from __future__ import annotations

import importlib
import importlib.resources
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from raylign.jobs.checks import plan
from raylign.jobs.checks.findings import Findings
from raylign.jobs.checks.machine import GIB, Gpu, Machine
from raylign.jobs.cli import COMMANDS, command_name
from raylign.jobs.compare.compare import examine_compare
from raylign.jobs.compare.config import CompareConfig
from raylign.jobs.config.evaluate import EvaluateConfig
from raylign.jobs.config.loading import Layer, find_recipe, parse_words, read_recipe, resolve
from raylign.jobs.config.sweep import SweepConfig
from raylign.jobs.config.train import TrainConfig
from raylign.jobs.data.best_of_n import examine_best_of_n
from raylign.jobs.data.best_of_n_config import BestOfNConfig
from raylign.jobs.data.grpo import examine as examine_grpo_data
from raylign.jobs.data.grpo_config import GrpoDataConfig
from raylign.jobs.init_model import InitModelConfig, init_model
from raylign.jobs.sample.config import SampleConfig
from raylign.jobs.sample.sample import examine_sample
from raylign.jobs.sweep.commands import expand
from raylign.jobs.synthetic.config import SynthesizeConfig
from raylign.jobs.synthetic.examine import examine_synthesis
from raylign.jobs.synthetic.examine_training import examine_training_half
from raylign.jobs.synthetic.given import read_given
from raylign.jobs.synthetic.rl_config import SyntheticRLConfig
from raylign.rollout.data.config import DataConfig
from raylign.rollout.data.templates import Template

TWO_CORES = Machine(2, 32 * GIB, 24 * GIB, 8 * GIB, ())
EIGHT_GPUS = Machine(64, 512 * GIB, 480 * GIB, 64 * GIB, (Gpu("a GPU", 80 * GIB, 79 * GIB, "600.1"),) * 8)
NUM_ROWS, ROWS_STOOD_FOR = 40, 20_000
NUM_GENERATED = 200
PUBLISHED_REFERENCES = (
    "gold",
    "claude-3-7-sonnet@20250219",
    "deepseek-chat-v3",
    "gemini-2.5-pro-exp-03-25",
    "o4-mini-2025-04-16",
    "Llama-3.1-8B-Instruct",
)
"""Whose answers the published pool of BLEUBERI holds."""
COMMAND_OF_PREFIX = {
    "evaluate": "evaluate",
    "best_of_n": "data best-of-n",
    "compare": "compare",
    "sweep": "sweep",
    "synthetic_rl": "synthetic-rl",
}
"""Which command a recipe is for, by how its name begins; all others are for `train`."""


def shipped_recipes() -> list[str]:
    """Names of the recipes that come with raylign."""
    folder = importlib.resources.files("raylign.jobs") / "recipes"
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def command_of_recipe(name: str) -> str:
    """The command that a recipe is written for."""
    found = (command for prefix, command in COMMAND_OF_PREFIX.items() if name.startswith(prefix))
    return next(found, "train")


def config_class_of(command: str) -> type[BaseModel]:
    """What a command reads."""
    module, _, name = COMMANDS[command].config_class.partition(":")
    config_class: type[BaseModel] = getattr(importlib.import_module(module), name)
    return config_class


def config_of_recipe(name: str) -> Any:
    """A shipped recipe by itself."""
    return resolve(config_class_of(command_of_recipe(name)), [read_recipe(find_recipe(name))])


class StandIns:
    """One tiny model, and a small file for each data set."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        questions = folder / "questions.jsonl"
        questions.write_text(
            "".join(json.dumps({"question": f"{n} + {n}", "answer": str(2 * n)}) + "\n" for n in range(99))
        )
        self._model = init_model(
            InitModelConfig(
                output=folder / "model",
                data=DataConfig(source=str(questions)),
                num_layers=1,
                width=32,
                num_heads=1,
                num_kv_heads=1,
                max_positions=4096,
            )
        )
        self._answers = folder / "answers.jsonl"
        lines = ({"prompt": f"what is {n} + {n}?", "response": str(2 * n)} for n in range(NUM_ROWS))
        self._answers.write_text("".join(json.dumps(line) + "\n" for line in lines))
        self._files: dict[Any, Path] = {}

    @property
    def model(self) -> str:
        """Folder of the tiny model."""
        return str(self._model)

    def examine(self, words: Sequence[str]) -> Findings:
        """The checks of `raylign <words>` before its start; ConfigError where a key or a value is refused."""
        name, rest = command_name(list(words))
        config_class = config_class_of(name)
        layers = parse_words(config_class, rest, f"raylign {name}").layers
        config = resolve(config_class, [*layers, Layer(self._values(resolve(config_class, layers)))])
        if isinstance(config, TrainConfig):
            is_large = config.learner.num_ranks + config.rollout.num_engines > TWO_CORES.num_cores
            return plan.examine_training(config, EIGHT_GPUS if is_large else TWO_CORES)
        if isinstance(config, EvaluateConfig):
            return plan.examine_evaluation(config, TWO_CORES)
        if isinstance(config, BestOfNConfig):
            return examine_best_of_n(config, TWO_CORES)
        if isinstance(config, GrpoDataConfig):
            return examine_grpo_data(config, TWO_CORES)
        if isinstance(config, SampleConfig):
            return examine_sample(config, TWO_CORES)
        if isinstance(config, SynthesizeConfig | SyntheticRLConfig):
            data = config if isinstance(config, SynthesizeConfig) else config.synthesis()
            findings = examine_synthesis(data, given := read_given(data), EIGHT_GPUS)
            if isinstance(config, SyntheticRLConfig):
                findings.problems += examine_training_half(config, given, EIGHT_GPUS).problems
            return findings
        if isinstance(config, CompareConfig):
            return examine_compare(config, TWO_CORES)
        if isinstance(config, SweepConfig):
            return self._all_of(config)
        return Findings()  # a command that checks nothing beyond its config

    def _all_of(self, config: SweepConfig) -> Findings:
        """Every command of a sweep."""
        findings = Findings()
        for run in expand(config):
            found = self.examine(run.words)
            findings.problems += [f"{run.name}: {problem}" for problem in found.problems]
            findings.warnings += [f"{run.name}: {warning}" for warning in found.warnings]
        return findings

    def _values(self, config: BaseModel) -> dict[str, Any]:
        """What takes the place of models, data and folders."""
        values: dict[str, Any] = {}
        if "cluster" in type(config).model_fields:
            values = {"folder": str(self._folder / "nothing-yet"), "cluster": {"address": "local"}}
        if isinstance(config, TrainConfig):
            values |= {"model": {"path": str(self._model)}}
            if config.learner.reference_path is not None:
                values["learner"] = {"reference_path": str(self._model)}
        elif isinstance(config, EvaluateConfig | BestOfNConfig | SampleConfig):
            values |= {"model": str(self._model)}
        elif isinstance(config, SynthesizeConfig | SyntheticRLConfig):
            values |= self._task_data(config)
        elif isinstance(config, GrpoDataConfig):
            values = self._pool(config)
        elif isinstance(config, CompareConfig):
            for key, side in config.sides.items():
                is_model = side.model is not None
                values[key] = {"model": str(self._model)} if is_model else {"answers": str(self._answers)}
        for path, data in data_sections(config):
            section = values
            for key in path[:-1]:
                section = section.setdefault(key, {})
            section[path[-1]] = self._data(data)
        if isinstance(config, TrainConfig):
            given = [each.model_dump(exclude_unset=True) for each in config.more_data]
            values["more_data"] = [keys | self._data(each) for keys, each in zip(given, config.more_data, strict=True)]
        return values

    def _task_data(self, config: SynthesizeConfig | SyntheticRLConfig) -> dict[str, Any]:
        """A task's data set with the documented columns and no others, and a library."""
        import datasets

        saved, library = self._folder / "task", self._folder / "library.jsonl"
        if not saved.exists():
            # labels that most tasks read
            label = "so \\boxed{A} #### 4 <answer>A</answer>"
            columns = {"Input": [f"{number}?" for number in range(8)], "Output": [label] * 8}
            splits = {name: datasets.Dataset.from_dict(columns).select(range(start, start + 4)) for name, start in
                      (("train", 0), ("test", 4))}  # fmt: skip
            datasets.DatasetDict(splits).save_to_disk(str(saved))
            library.write_text(json.dumps({"text": "a passage"}) + "\n")
        values: dict[str, Any] = {"passage_paths": [str(library)] if config.passage_paths else []}
        if config.dataset_path is not None:
            values["dataset_path"] = str(saved)
        if config.demo_examples is not None:
            values["demo_examples"] = str(saved)
        values["model" if isinstance(config, SynthesizeConfig) else "base_model_path"] = str(self._model)
        if not isinstance(config, SynthesizeConfig):
            values["target_model_path"] = str(self._folder / "nothing-there")
        return values

    def _pool(self, config: GrpoDataConfig) -> dict[str, Any]:
        """A pool with the published columns and no others, and answers to it."""
        pool, answers = self._folder / "pool.jsonl", self._folder / "tiny_inference_results.csv"
        if not pool.exists():
            with pool.open("w") as rows, answers.open("w") as table:
                table.write("id,source,prompt,response\n")
                for number in range(NUM_ROWS):
                    asked, answered = {"role": "user", "content": f"{number}?"}, {"role": "assistant", "content": "so"}
                    models = {f"ref_output_{name}": f"{name} says {number}" for name in PUBLISHED_REFERENCES}
                    row = {"id": str(number), "source": "flan", "messages": [asked, answered], **models}
                    rows.write(json.dumps(row) + "\n")
                    table.write(f"{number},flan,{number}?,so\n")
        values: dict[str, Any] = {"output_dir": str(self._folder / "no-data-yet"), "cluster": {"address": "local"}}
        values["data"] = {"source": str(pool), "subset": None, "split": "train"}
        if config.hf_dataset_path is not None:
            values["hf_dataset_path"] = str(pool)
        if config.answers_csv is not None:
            values["answers_csv"] = str(answers)
        if config.model is not None:
            values["model"] = str(self._model)
        if config.metric in ("rm", "bertscore"):
            values["metric"] = "bleu"  # what they score with would have to be downloaded
        return values

    def _data(self, data: DataConfig) -> dict[str, Any]:
        """Equal sources share a file, so that rows which overlap are found."""
        if data.source.startswith("reasoning_gym:"):
            return {"num_generated": NUM_GENERATED}
        key = data.source, data.subset, data.split, data.pairs.format, *templates_of(data)
        if key not in self._files:
            self._files[key] = self._folder / f"data-{len(self._files)}.jsonl"
            rows = [row_of(data, number, len(self._files)) for number in range(NUM_ROWS)]
            self._files[key].write_text("".join(json.dumps(row) + "\n" for row in rows))
        share = ":".join(map(as_percentage, data.rows.split(":")))
        return {"source": str(self._files[key]), "subset": None, "rows": share}


def data_sections(config: BaseModel) -> Iterator[tuple[tuple[str, ...], DataConfig]]:
    """Every data section of a config with its keys."""
    for key in type(config).model_fields:
        value = getattr(config, key)
        if isinstance(value, DataConfig):
            yield (key,), value
        elif isinstance(value, BaseModel):
            yield from (((key, *path), data) for path, data in data_sections(value))


def as_percentage(bound: str) -> str:
    """Rows are counted in the real data set."""
    return f"{min(100, 100 * int(bound) // ROWS_STOOD_FOR)}%" if bound.strip().isdigit() else bound


def templates_of(data: DataConfig) -> list[str | None]:
    """What says which columns the rows must have."""
    pairs = data.pairs
    return [data.prompt, data.reference, data.response, pairs.chosen, pairs.rejected, data.messages, pairs.probability]


def row_of(data: DataConfig, number: int, data_set: int) -> dict[str, Any]:
    """A row as the format and the templates of a data section want it."""
    question, better, worse = f"{number} + {data_set}?", f"{number + data_set}", f"{number - data_set} or so"
    if data.pairs.format == "best_worst":
        return {question: {"responses": [better, worse], "pairs": [[0, 1]]}}
    row = row_of_format(data.pairs.format, question, better, worse)
    asked, answered = {"role": "user", "content": question}, {"role": "assistant", "content": better}
    if data.messages is not None:
        row[data.messages] = [asked, answered]
    if data.pairs.probability is not None:
        row[data.pairs.probability] = 0.75
    for template in (data.prompt, data.reference, data.response):
        text = question if template == data.prompt else better
        row = {column: text for column in Template(template or "").columns} | row
    for template, text in ((data.pairs.chosen, better), (data.pairs.rejected, worse)):
        row = {column: text for column in Template(template).columns} | row
    return row


def row_of_format(format: str, question: str, better: str, worse: str) -> dict[str, Any]:
    """As the data sets have them."""
    if format == "dialogues":
        start = f"\n\nHuman: {question}\n\nAssistant:"
        return {"chosen": f"{start} {better}", "rejected": f"{start} {worse}"}
    if format == "messages":
        asked = {"role": "user", "content": question}
        answers = {"chosen": better, "rejected": worse}
        return {side: [asked, {"role": "assistant", "content": text}] for side, text in answers.items()}
    if format in ("pku_better", "pku_safer"):
        return {
            "prompt": question,
            "response_0": worse,
            "response_1": better,
            "better_response_id": 1,
            "safer_response_id": 1,
        }
    if format == "ultrafeedback":
        scores = {better: 9, worse: 2, f"{worse}?": 3, f"{worse}!": 4}
        completions = [{"response": text, "overall_score": score} for text, score in scores.items()]
        return {"instruction": question, "completions": completions}
    if format == "webgpt":
        answers = {"answer_0": better, "answer_1": worse}
        return {"question": {"full_text": question}, **answers, "score_0": 1, "score_1": -1}
    if format == "summarize":
        info = {"subreddit": "sums", "title": question, "post": question}
        return {"info": info, "summaries": [{"text": better}, {"text": worse}], "choice": 0}
    if format == "shp":
        return {"history": question, "human_ref_A": worse, "human_ref_B": better, "labels": 0, "score_ratio": 3.0}
    if format == "stack_exchange":
        scored = [{"pm_score": score, "text": f"<p>{text}</p>"} for score, text in ((1, worse), (4, better))]
        return {"qid": question, "question": f"<p>{question}</p>", "answers": scored}
    return {"prompt": question, "chosen": better, "rejected": worse, "n": 8}
