"""A conversation with a model: what was said, and how the next prompt is written.

Given a tokenizer and a template; gives prompts as training renders them. With a plain template each line is a prompt of
its own, since such a template has no place for what was said before.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from raylign.rollout.data.config import DataConfig
from raylign.rollout.data.encoding import EncodedTexts, render_prompts
from raylign.rollout.data.mapping import MappedRow
from raylign.rollout.sample import Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass
class Conversation:
    """Grows by `ask` and `answered`."""

    tokenizer: PreTrainedTokenizerBase
    template: str
    system: str | None
    max_prompt_tokens: int
    messages: list[dict[str, Any]] = field(default_factory=list)
    """Without the system message."""
    num_asked: int = 0

    @property
    def has_memory(self) -> bool:
        """Whether the model is told what was said before."""
        return self.template == "chat"

    def ask(self, text: str) -> Prompt:
        """The prompt for the user's next line; an error where it is too long, and nothing was said then."""
        before = [{"role": "system", "content": self.system}] if self.system else []
        said = [*self.messages, {"role": "user", "content": text}] if self.has_memory else []
        messages = [*before, *(said or [{"role": "user", "content": text}])]
        row = MappedRow(0, messages, (), None, {})
        rendered = render_prompts(self.tokenizer, [row], DataConfig(source="chat", template=self.template))
        token_ids = EncodedTexts(self.tokenizer, rendered).token_ids(0)
        if len(token_ids) > self.max_prompt_tokens:
            raise ValueError(
                f"the prompt has {len(token_ids)} tokens, and the context leaves {self.max_prompt_tokens} for it "
                "(engine.max_model_len without sampling.max_tokens): /new begins another conversation"
            )
        self.messages = list(said)
        self.num_asked += 1
        return Prompt(f"chat-{self.num_asked}", self.num_asked, rendered[0], token_ids, messages=tuple(messages))

    def answered(self, text: str) -> None:
        """The model's answer, whole or as far as it came."""
        if self.has_memory:
            self.messages.append({"role": "assistant", "content": text})

    def begin_anew(self) -> None:
        """Forget what was said."""
        self.messages = []
