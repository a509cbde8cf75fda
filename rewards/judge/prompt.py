"""What a judge is asked, and how its reply is read.

Given a prompt and two answers in the order in which they are shown; gives the text of the question. Given the reply,
gives the two scores in the same order, or an `UnreadableReply`: a reply without scores is no tie.
"""

from __future__ import annotations

import re

from raylign.rewards.chat_reply import UnreadableReply

QUESTION = """\
Two assistants answered the same request. Judge how helpful, correct, relevant and clear each answer is. Neither the \
order of the answers nor their length may count.

[Request]
{prompt}

[Answer of assistant A]
{first}

[Answer of assistant B]
{second}

[End]
Compare the answers in a few sentences. Then write one last line with nothing but a score from 1 to 10 for each, in \
this form: [[score of A, score of B]]"""

LOWEST, HIGHEST = 0.0, 10.0
_NUMBER = r"(\d+(?:\.\d+)?)"
_BRACKETS = re.compile(rf"\[\[\s*{_NUMBER}\s*,\s*{_NUMBER}\s*\]\]")
_LINE = re.compile(rf"Assistant A:\s*{_NUMBER}\b.*?Assistant B:\s*{_NUMBER}\b", re.IGNORECASE | re.DOTALL)
_PLACE = re.compile(r"\{(prompt|first|second)\}")


def check_template(template: str) -> str:
    """Raise unless all three places are there."""
    if missing := [place for place in ("{prompt}", "{first}", "{second}") if place not in template]:
        raise ValueError(f"the judge's template lacks {', '.join(missing)}")
    return template


def question(template: str, prompt: str, first: str, second: str) -> str:
    """Filled in at once, so that an answer which itself holds `{second}` stays as it is."""
    values = {"prompt": prompt, "first": first, "second": second}
    return _PLACE.sub(lambda place: values[place[1]], template)


def read_scores(reply: str) -> tuple[float, float]:
    """The last `[[a, b]]`; where there is none, the last `Assistant A: a … Assistant B: b`. Numbers are read whole: 10
    is not 1."""
    found = _BRACKETS.findall(reply) or _LINE.findall(reply)
    if not found:
        raise UnreadableReply(f"no [[score, score]] in the reply {reply[-200:]!r}")
    first, second = map(float, found[-1])
    if not (LOWEST <= first <= HIGHEST and LOWEST <= second <= HIGHEST):
        raise UnreadableReply(f"scores {first:g} and {second:g} are not within {LOWEST:g} to {HIGHEST:g}")
    return first, second
