"""Stage keywords: which field a task belongs to, and the terms that passages are searched by.

Given the task's texts and demonstrations; gives the field and its terms. Where the user names the field, the teacher is
asked for the terms alone.
"""

from __future__ import annotations

from raylign.jobs.synthetic.generate import Material
from raylign.jobs.synthetic.prompts import keyword_prompt, read_terms, synonyms_prompt
from raylign.jobs.synthetic.rows import StageResult
from raylign.jobs.synthetic.teacher import Question, Teacher
from raylign.rewards.chat_reply import ChatFailure

KEYWORD_DEMOS = 3


async def keywords(teacher: Teacher, material: Material, domain: str | None) -> StageResult:
    """`facts`: domain, terms, query."""
    if domain is None:
        prompt = keyword_prompt(material.texts, material.demos[:KEYWORD_DEMOS])
        domain = (await _reply(teacher, "keyword", prompt)).strip().strip(".\"'")
    terms = read_terms(await _reply(teacher, "synonyms", synonyms_prompt(domain)))
    return StageResult(facts={"domain": domain, "terms": terms, "query": " ".join([domain, *terms])})


async def _reply(teacher: Teacher, stage: str, prompt: str) -> str:
    (answer,) = (await teacher.ask(stage, [Question(stage, prompt)])).values()
    if isinstance(answer, ChatFailure):
        raise ValueError(f"the teacher gave no {stage}: {answer.kind}: {answer.message}")
    return answer[0]
