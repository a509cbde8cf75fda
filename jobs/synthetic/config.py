"""The configuration of `raylign data synthesize`: from a task's definition to rows to train on.

Given the config classes of the parts; gives `SynthesizeConfig`, checked across fields, without a heavy import.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Self

from pydantic import BaseModel, Field, model_validator

from raylign.actors.cluster import ClusterConfig
from raylign.jobs.config.shared_checks import filled_folder, raise_together
from raylign.jobs.synthetic.selection import SelectionConfig
from raylign.rewards.chat_config import ChatConfig
from raylign.rewards.tasks.config import AnyTask
from raylign.rollout.engine.config import EngineConfig
from raylign.rollout.sampling import AnswerSamplingConfig


class TeacherConfig(ChatConfig):
    """The language model that writes, solves and rewrites rows."""

    model: str = "gpt-4o"
    """Name of the model."""
    temperature: float = Field(0.7, ge=0)
    """Of all its replies."""
    max_tokens: int = Field(4000, ge=1)
    """Longest reply."""
    max_prompt_tokens: int = Field(30_000, ge=100)
    """A longer prompt is cut at its end (a token is counted as three bytes)."""
    cache: Path | None = Path("runs/teacher-cache")
    """Folder of replies, which several jobs may share; null: none are kept."""


class RowsConfig(BaseModel, extra="forbid", use_attribute_docstrings=True):
    """How many rows are made, and from what."""

    num_rows: int = Field(500, ge=1)
    """Rows that the teacher is asked to write (the paper's N); each is then made harder or easier once."""
    num_kept: int = Field(500, ge=1)
    """Rows that are selected (the paper's M)."""
    num_votes: int = Field(16, ge=1)
    """Solutions of the teacher to each row, which vote for its label."""
    own_vote: bool = True
    """The output that was written with a row votes too."""
    min_votes: int = Field(1, ge=1)
    """A row is kept where at least so many votes agree."""
    pattern_demos: int = Field(50, ge=1)
    """Demonstrations in the prompt that asks for a general description of them."""
    demos_shown: int = Field(3, ge=1)
    """Demonstrations in a prompt that asks for a row; so many prompts of N show some as there are demonstrations."""
    num_passages: int = Field(10_000, ge=1)
    """Passages asked of the library."""
    passage_characters: int = Field(2048, ge=1)
    """Longer passages are cut."""


class ScoringConfig(BaseModel, extra="forbid", use_attribute_docstrings=True):
    """How the base model's answers to each row are drawn, of which some are right (k of L)."""

    num_answers: int = Field(64, ge=2)
    """Answers to each row (the paper's L)."""
    temperature: float = Field(0.7, gt=0)
    """Of these answers."""
    top_p: float = Field(0.95, gt=0, le=1)
    """Of these answers."""
    max_tokens: int = Field(1500, ge=1)
    """Longest answer, also of the one greedy answer that says whether a row is made harder or easier."""

    def sampled(self) -> AnswerSamplingConfig:
        """For the score."""
        return AnswerSamplingConfig(
            temperature=self.temperature,
            top_p=self.top_p,
            max_tokens=self.max_tokens,
            num_completions=self.num_answers,
        )

    def greedy(self) -> AnswerSamplingConfig:
        """For the question whether a row is solved."""
        return AnswerSamplingConfig(temperature=0.0, max_tokens=self.max_tokens)


class GivenConfig(BaseModel, extra="forbid", use_attribute_docstrings=True):
    """What rows are made of and how: keys of the synthesis that the whole experiment hands on as they are."""

    task_instruction: str | list[str] = ""
    """What the task is, in a sentence or more; several words are joined."""
    dataset_path: Path | None = None
    """Saved `datasets` folder with `train` and `test`, columns `Input` and `Output` or in lower case: demonstrations
    come from `train`, and `test` is for the evaluation."""
    demo_examples: Path | None = None
    """File or folder of demonstrations with the same columns, in place of `train`."""
    num_demos: int = Field(50, ge=0)
    """Demonstrations used at most; 0: none."""
    domain: str | None = None
    """Field of knowledge, for the search in the library; empty: the teacher is asked."""
    passage_paths: list[Path] = []
    """Files or folders of JSONL or Parquet with passages; empty: rows are written without."""
    index_folder: Path = Path("runs/passage-index")
    """Folder of the library's index, which other jobs share."""
    dry_run: bool = False
    """Print calls, tokens and cost of each stage, and stop before anything is spent."""
    template: str = "chat"
    """How the base model is fed, here and in training: `chat`, or a plain template with `{prompt}`."""
    rows: RowsConfig = RowsConfig()
    scoring: ScoringConfig = ScoringConfig()
    selection: SelectionConfig = SelectionConfig()
    teacher: TeacherConfig = TeacherConfig()

    @model_validator(mode="after")
    def _join_instruction(self) -> Self:
        if isinstance(self.task_instruction, list):
            self.task_instruction = " ".join(self.task_instruction)
        return self


class SynthesizeConfig(GivenConfig):
    """Training rows from a task's definition: written by a teacher, verified, made harder or easier, scored by the base
    model, selected."""

    name: str = Field("synthesize", min_length=1)
    """Name of the job, for its folder."""
    folder: Path = Path("runs/{name}")
    """Folder for the results; `{name}` and `{seed}` are filled in."""
    resume: bool = False
    """Go on with the job in the folder; no call and no answer that is there is made again."""
    seed: int = Field(0, ge=0, lt=2**31)
    """Decides demos, passages, labels among equal votes, and the sampling."""
    model: str = "runs/tiny-model"
    """Base model: folder, checkpoint folder, run folder or Hugging Face id."""
    task: AnyTask = "gsm8k"
    """What answers look like: a built-in name, a Python file, a folder of the original's files, or a form."""
    deterministic: bool = False
    """A seed for every answer of the base model: the same files again, however often the job was interrupted."""
    answer_deadline_s: float = Field(1800, gt=0)
    """How long to wait for the next prompt's answers and scores."""
    num_engines: int = Field(1, ge=1)
    """vLLM engines that share the rows."""
    engine: EngineConfig = EngineConfig(max_model_len=4096)
    cluster: ClusterConfig = ClusterConfig()

    @model_validator(mode="after")
    def _check(self) -> Self:
        self.folder = filled_folder(self.folder, self.name, self.seed)
        raise_together(self._problems())
        return self

    @property
    def instruction(self) -> str:
        """The task's, as one text."""
        assert isinstance(self.task_instruction, str)
        return self.task_instruction

    def _problems(self) -> Iterator[str]:
        if not self.instruction.strip():
            yield "task_instruction is empty: say in a sentence what the task is"
        if self.scoring.max_tokens >= self.engine.max_model_len:
            yield (
                f"scoring.max_tokens is {self.scoring.max_tokens}: with engine.max_model_len = "
                f"{self.engine.max_model_len} no room is left for a prompt"
            )
        if self.rows.min_votes > self.rows.num_votes + self.rows.own_vote:
            yield (
                f"rows.min_votes is {self.rows.min_votes}: there are only {self.rows.num_votes + self.rows.own_vote} "
                "votes for each row"
            )
