"""The configuration of a judge, apart from the judge so that configs compose it.

Given nothing; gives `JudgeConfig`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, Field

from raylign.rewards.chat_config import ChatConfig, ChatEndpoint
from raylign.rewards.judge.prompt import QUESTION, check_template

JudgeEndpoint = ChatEndpoint


class JudgeConfig(BaseModel, extra="forbid", use_attribute_docstrings=True):
    """A language model that compares two answers."""

    model: str
    """Name of the model."""
    endpoints: list[ChatEndpoint] = Field([ChatEndpoint()], min_length=1)
    """Where it is served; requests go round, each address at its own pace."""
    template: Annotated[str, AfterValidator(check_template)] = QUESTION
    """The question, with {prompt}, {first} and {second}; the reply must hold [[score of first, score of second]]."""
    temperature: float = Field(0.7, ge=0)
    """Of the judge's reply."""
    top_p: float = Field(0.95, gt=0, le=1)
    """Of the judge's reply."""
    max_tokens: int = Field(1000, ge=1)
    """Longest reply."""
    num_attempts: int = Field(4, ge=1)
    """Tries before a pair counts as failed."""
    deadline_s: float = Field(120, gt=0)
    """Time for one try."""
    longest_pause_s: float = Field(60, ge=0)
    """Between two tries, whatever the service asks for."""
    max_concurrent: int = Field(16, ge=1)
    """Pairs under way at once."""
    cache: Path | None = Path("runs/judge-cache")
    """Folder of replies; null: none are kept."""
    seed: int = 0
    """Decides which answer is shown first."""

    def chat(self) -> ChatConfig:
        """As the client reads it."""
        return ChatConfig(
            model=self.model,
            endpoints=self.endpoints,
            num_attempts=self.num_attempts,
            deadline_s=self.deadline_s,
            longest_pause_s=self.longest_pause_s,
            max_concurrent=self.max_concurrent,
            cache=self.cache,
        )
