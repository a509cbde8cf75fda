"""Whether what is trained is what the chat template would write.

Given a tokenizer, rows and their rendered prompts; gives warnings. Prompt and demonstration are encoded apart, so the
template's own rendering of the whole chat must begin with the two and go on with the end token.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from raylign.rollout.data.encoding import render_whole
from raylign.rollout.data.mapping import MappedRow

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NUM_CHECKED = 8
SHOWN = 40
PROBE = "An answer."
"""Stands for the answer where none is learned from."""
THINKING_TAGS = ("<think>", "<thinking>", "<|begin_of_thought|>", "[THINK]")


def template_warnings(
    tokenizer: PreTrainedTokenizerBase,
    mapped: Sequence[MappedRow],
    prompts: Sequence[str],
    answers: Sequence[str],
    source: str,
) -> list[str]:
    """One warning for each kind of difference in the first rows. `answers`: demonstrations; empty where none are
    learned from."""
    found: dict[str, None] = {}
    for place, item in enumerate(mapped[:NUM_CHECKED]):
        answer = answers[place] if answers else ""
        whole = render_whole(tokenizer, item, {"role": "assistant", "content": answer or PROBE}, source)
        if warning := _warning(prompts[place], answer, whole, str(tokenizer.eos_token)):
            found[warning] = None
    return list(found)


def _warning(prompt: str, answer: str, whole: str, end: str) -> str | None:
    opening = next((tag for tag in THINKING_TAGS if prompt.rstrip().endswith(tag)), None)
    if opening and answer:
        return _of_thinking(opening, answer)
    told = answer or PROBE
    expected = next((prompt + text for text in (told, told.strip()) if whole.startswith(prompt + text)), None)
    if expected is not None:
        return _of_end(whole[len(expected) :], answer, end)
    if opening:  # a sampled answer thinks; a past one is written without its thoughts
        return None
    after = whole[len(prompt) :] if whole.startswith(prompt) else ""
    between = after[: after.find(told.strip())] if told.strip() in after else ""
    if any(tag in between for tag in THINKING_TAGS):
        if not answer:  # a sampled answer writes its thoughts itself
            return None
        return (
            f"the chat template writes {_short(between)} before the demonstrations, which prompts end without; begin "
            "the demonstrations with it, or use a template that does not write it"
        )
    if between.strip():
        return (
            f"the chat template has no generation prompt: prompts end without {_short(between)}, which it writes "
            "before the assistant's answer; let it write that where add_generation_prompt is set"
        )
    place = next((n for n, (a, b) in enumerate(zip(prompt, whole, strict=False)) if a != b), len(prompt))
    return (
        f"the chat template writes an answered chat otherwise than prompt and answer together: "
        f"{_short(whole[place:])} where they have {_short((prompt + told)[place:])}; mend the template, or set "
        "data.template to a plain one"
    )


def _of_thinking(opening: str, answer: str) -> str | None:
    """The prompt ends in the opening of thoughts."""
    if answer.lstrip().startswith(opening):
        return (
            f"the chat template opens {opening}, and so do the demonstrations: two openings are learned; take it "
            "out of the demonstrations, or use a template that does not open it"
        )
    if opening.replace("<", "</", 1) not in answer and opening.startswith("<t"):
        return (
            f"the chat template opens {opening}, and the demonstrations do not close it: they are learned as thoughts; "
            "write thoughts and their end into them, or use a template that does not open it"
        )
    return None


def _of_end(rest: str, answer: str, end: str) -> str | None:
    """What the template writes after the answer."""
    if not answer or answer.endswith(end) or rest.startswith(end):
        return None
    turn_end = rest.strip("\n").split("\n")[0]
    return (
        f"the chat template ends the assistant's turn with {_short(turn_end)}, and demonstrations are taught to end "
        f"with the tokenizer's {end!r}; set eos_token in the model's tokenizer_config.json to the end of the turn"
    )


def _short(text: str) -> str:
    return repr(text if len(text) <= SHOWN else text[:SHOWN] + "…")
