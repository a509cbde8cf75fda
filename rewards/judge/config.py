"""The configuration of a judge, apart from the judge so that configs compose it.

Given nothing; gives `JudgeConfig`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, BaseModel, Field, model_validator

from raylign.rewards.addresses import check_address, is_at
from raylign.rewards.judge.prompt import QUESTION, check_template

OPENAI_HOST = "api.openai.com"


class JudgeEndpoint(BaseModel, extra="forbid", use_attribute_docstrings=True):
    """One address that serves the judge."""

    url: Annotated[str, AfterValidator(check_address)] = f"https://{OPENAI_HOST}/v1"
    """Address of the API, up to and with `/v1`."""
    model: str | None = None
    """Name of the model at this address; empty: the judge's."""
    api_key_env: str | None = "OPENAI_API_KEY"
    """Environment variable that holds the key; null: the address needs none. The default is for OpenAI's own
    address alone; any other gets a key only where this names one."""
    requests_per_minute: float | None = Field(60, gt=0)
    """Rate limit; null: none."""
    tokens_per_minute: float | None = Field(None, gt=0)
    """Rate limit, of prompts and longest replies together; null: none."""

    @model_validator(mode="after")
    def _keep_the_default_key_at_home(self) -> Self:
        if "api_key_env" not in self.model_fields_set and not is_at(self.url, OPENAI_HOST):
            self.api_key_env = None
        return self


class JudgeConfig(BaseModel, extra="forbid", use_attribute_docstrings=True):
    """A language model that compares two answers."""

    model: str
    """Name of the model."""
    endpoints: list[JudgeEndpoint] = Field([JudgeEndpoint()], min_length=1)
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
