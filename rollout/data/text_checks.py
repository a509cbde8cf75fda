"""Texts that look wrong to whoever knows the tokenizer: special tokens inside, NUL characters.

Given mapped rows and the texts that are learned from; gives warnings with a count and the first row. And for a model
with fewer embeddings than its tokenizer has tokens: the first text that needs one beyond.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from raylign.rollout.data.mapping import MappedRow, row_name

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MEDIA_COLUMNS = ("images", "image", "audios", "audio", "videos", "video")
"""Of data sets for models that see or hear."""


def text_warnings(
    tokenizer: PreTrainedTokenizerBase, mapped: Sequence[MappedRow], answers: Sequence[Sequence[str]], source: str
) -> list[str]:
    """`answers`: of each row, the texts that are learned from."""
    questions = [[str(message["content"]) for message in item.messages] for item in mapped]
    # an answer that only a template can write holds tokens of its own
    told = [[] if item.answer is not None else texts for item, texts in zip(mapped, answers, strict=True)]
    end = str(tokenizer.eos_token)
    ended = [place for place, texts in enumerate(told) if any(text.endswith(end) for text in texts)]
    warnings = _counted(ended, mapped, source, f"end in the end token {end!r} themselves; it is not put there again")
    added = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    special = sorted(token for token in added | set(map(str, tokenizer.all_special_tokens)) if token)
    pattern = re.compile("|".join(map(re.escape, special))) if special else None
    for column in MEDIA_COLUMNS:
        having = [place for place, item in enumerate(mapped) if item.row.get(column)]
        warnings += _counted(having, mapped, source, "go beside the text and are not read: only text is", f"{column}")
    empty = [place for place, texts in enumerate(questions) if not any(text.strip() for text in texts)]
    warnings += _counted(empty, mapped, source, "are empty", "prompts")
    for what, texts_of in (("prompts", questions), ("answers", told)):
        inside: list[int] = []
        first = ""
        for place, texts in enumerate(texts_of):
            for text in texts:
                if pattern and (found := pattern.search(text.removesuffix(end) if what == "answers" else text)):
                    first = first or found.group()
                    inside.append(place)
                    break
        warnings += _counted(inside, mapped, source, f"have a special token inside, such as {first!r}", what)
        nul = [place for place, texts in enumerate(texts_of) if any("\x00" in text for text in texts)]
        warnings += _counted(nul, mapped, source, "have a NUL character inside", what)
    return warnings


def _counted(places: list[int], mapped: Sequence[MappedRow], source: str, why: str, what: str = "answers") -> list[str]:
    if not places:
        return []
    first = row_name(mapped[places[0]].index)
    return [f"{source}: the {what} of {len(places)} of {len(mapped)} rows {why} (first: {first})"]


def tokens_without_embedding(tokenizer: PreTrainedTokenizerBase, num_embeddings: int) -> dict[str, int]:
    """The tokens whose ids lie beyond the model's embeddings."""
    return {token: number for token, number in tokenizer.get_vocab().items() if number >= num_embeddings}


def first_text_beyond(
    tokenizer: PreTrainedTokenizerBase, texts: Iterable[str], num_embeddings: int
) -> tuple[int, str] | None:
    """Place of the first text with such a token, and the token. Added tokens are matched as they are written."""
    beyond = tokens_without_embedding(tokenizer, num_embeddings)
    if not beyond:
        return None
    written = {str(token): token for token in beyond} | {
        tokenizer.convert_tokens_to_string([token]): token for token in beyond
    }
    for place, text in enumerate(texts):
        if any(piece and piece in text for piece in written):
            ids = tokenizer(text, add_special_tokens=False)["input_ids"]
            for number in ids:
                if number >= num_embeddings:
                    return place, str(tokenizer.convert_ids_to_tokens(number))
    return None
