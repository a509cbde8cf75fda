"""The configuration of `raylign chat`.

Given the config classes of the parts; gives `ChatConfig`, checked across fields, without a heavy import.
"""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import BaseModel, Field, model_validator

from raylign.jobs.config.shared_checks import no_room_words, raise_together
from raylign.jobs.sample.config import OneAnswerConfig
from raylign.rollout.engine.config import EngineConfig


class ChatConfig(BaseModel, extra="forbid", use_attribute_docstrings=True):
    """Talk to a model in the terminal."""

    model: str = "runs/tiny-model"
    """Model folder, checkpoint folder, run folder (its last checkpoint) or Hugging Face id."""
    template: str | None = None
    """`chat` uses the tokenizer's chat template; anything else is a plain template with `{prompt}`. Empty: what the run
    was trained with (`data.template`), else `chat`."""
    system: str | None = None
    """System message. Empty: what the run was trained with (`data.system`), else none."""
    seed: int = Field(0, ge=0, lt=2**31)
    """Decides the sampling."""
    sampling: OneAnswerConfig = OneAnswerConfig()
    engine: EngineConfig = EngineConfig()

    @model_validator(mode="after")
    def _check(self) -> ChatConfig:
        raise_together(self._problems())
        return self

    def _problems(self) -> Iterator[str]:
        if self.template not in (None, "chat") and "{prompt}" not in str(self.template):
            yield f"template {self.template!r}: write `chat`, or a plain template with {{prompt}} in it"
        if self.template not in (None, "chat") and self.system is not None:
            yield "`system` needs `template: chat`; in a plain template write its text in the template"
        if self.sampling.max_tokens >= self.engine.max_model_len:
            yield no_room_words(self.sampling.max_tokens, "engine.max_model_len", self.engine.max_model_len)
