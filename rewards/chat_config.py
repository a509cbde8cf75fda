"""The configuration of a chat client: where a language model is served, at what pace and price.

Given nothing; gives `ChatEndpoint` and `ChatConfig`. Keys are never in a config: an endpoint names the environment
variable that holds one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, BaseModel, Field, model_validator

from raylign.rewards.addresses import check_address, is_at

OPENAI_HOST = "api.openai.com"


class ChatEndpoint(BaseModel, extra="forbid", use_attribute_docstrings=True):
    """One address that serves the model."""

    url: Annotated[str, AfterValidator(check_address)] = f"https://{OPENAI_HOST}/v1"
    """Address of the API, up to and with `/v1`."""
    model: str | None = None
    """Name of the model at this address; empty: the one above."""
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


class ChatConfig(BaseModel, extra="forbid", use_attribute_docstrings=True):
    """A language model behind OpenAI-compatible endpoints."""

    model: str
    """Name of the model."""
    endpoints: list[ChatEndpoint] = Field([ChatEndpoint()], min_length=1)
    """Where it is served; requests go round, each address at its own pace."""
    num_attempts: int = Field(4, ge=1)
    """Tries before a question counts as failed."""
    deadline_s: float = Field(120, gt=0)
    """Time for one try."""
    longest_pause_s: float = Field(60, ge=0)
    """Between two tries, whatever the service asks for."""
    max_concurrent: int = Field(16, ge=1)
    """Questions under way at once."""
    cache: Path | None = None
    """Folder of replies; null: none are kept."""
    prompt_price: float = Field(0.0, ge=0)
    """Price of a million prompt tokens, in any currency."""
    reply_price: float = Field(0.0, ge=0)
    """Price of a million reply tokens, in the same currency."""
    max_cost: float | None = Field(None, gt=0)
    """No call is made that could bring the cost of the job above this; null: no limit."""

    @model_validator(mode="after")
    def _check_prices(self) -> Self:
        if self.max_cost is not None and not (self.prompt_price or self.reply_price):
            raise ValueError(
                f"max_cost is {self.max_cost:g} and both prices are 0: nothing would ever reach it; set prompt_price "
                "and reply_price, or max_cost: null"
            )
        return self
