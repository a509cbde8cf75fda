"""Tokens and cost of chat calls, and the limit that no call may break.

Given two prices per million tokens and a limit; `reserve` is asked before each call with the most that it could cost,
and `settle` told after it what it did cost. A line for each call on disk makes the limit hold over resumes.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from raylign.rewards.chat_config import ChatConfig
from raylign.rewards.chat_reply import CostLimitReached


@dataclass(frozen=True)
class Usage:
    """What calls took."""

    num_calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    """Of the prompt tokens, those that the service had cached itself."""
    cost: float = 0.0

    def __add__(self, other: Usage) -> Usage:
        return Usage(*(getattr(self, each.name) + getattr(other, each.name) for each in fields(self)))


class UsageMeter:
    """Counts by stage; for one event loop."""

    def __init__(self, config: ChatConfig, name: str, path: Path | None = None) -> None:
        """`name`: section of the config, for messages. `path`: file of calls, read first where it is there."""
        self._config = config
        self._name = name
        self._path = path
        self._reserved = 0.0
        self._settled = asyncio.Event()
        self.by_stage: dict[str, Usage] = {}
        self.this_session = Usage()
        if path is not None and path.exists():
            self._read(path)

    @property
    def total(self) -> Usage:
        return sum(self.by_stage.values(), Usage())

    def cost_of(self, prompt_tokens: int, completion_tokens: int) -> float:
        """At the prices of the config."""
        config = self._config
        return (prompt_tokens * config.prompt_price + completion_tokens * config.reply_price) / 1e6

    async def reserve(self, at_most: float) -> None:
        """Returns when the call may be made. Calls under way may turn out cheaper than feared: they are waited for, and
        each unblocks by its end, which has a deadline."""
        limit = self._config.max_cost
        while limit is not None and self.total.cost + self._reserved + at_most > limit:
            if not self._reserved:
                raise CostLimitReached(
                    f"{self._name}.max_cost is {limit:g}: {self.total.cost:.6g} is spent, and the next call could cost "
                    f"up to {at_most:.6g}; go on with --resume and a higher {self._name}.max_cost"
                )
            self._settled.clear()
            await self._settled.wait()
        self._reserved += at_most

    def settle(self, at_most: float, usage: Usage | None, stage: str) -> None:
        """The call is over. `usage`: None where it was refused, and so cost nothing."""
        self._reserved = max(0.0, self._reserved - at_most)
        if self._reserved < 1e-12:
            self._reserved = 0.0
        self._settled.set()
        if usage is None:
            return
        self.by_stage[stage] = self.by_stage.get(stage, Usage()) + usage
        self.this_session += usage
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"stage": stage, **asdict(usage)}) + "\n")

    def _read(self, path: Path) -> None:
        content = path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            path.write_bytes(whole)
        for number, line in enumerate(whole.splitlines(), 1):
            try:
                values = json.loads(line)
                stage, usage = str(values.pop("stage")), Usage(**values)
                self.by_stage[stage] = self.by_stage.get(stage, Usage()) + usage
            except (ValueError, LookupError, TypeError, AttributeError) as error:
                raise ValueError(f"{path}:{number}: not what this job writes ({error!r}); remove the line") from None
