"""The tasks of the original program by its names, and two more.

Given a name, gives the form of its answers. Data sets are the user's: a row's reference is its answer as a whole
worked-out reply or bare.
"""

from __future__ import annotations

from raylign.rewards.tasks.forms import AnswerForm

_LETTERS = ("A", "B", "C", "D")


def _choice(options: tuple[str, ...], input_instruction: str, ignore_case: bool = False) -> AnswerForm:
    return AnswerForm(form="tag", options=options, ignore_case=ignore_case, input_instruction=input_instruction)


BUILT_IN: dict[str, AnswerForm] = {
    "gsm8k": AnswerForm(form="hash", input_instruction="A word problem whose answer is one number."),
    "math": AnswerForm(form="boxed", input_instruction="A competition problem in mathematics, written in LaTeX."),
    "logiqa": _choice(_LETTERS, "A passage, a question about its logic, and four options, A to D, one of them right."),
    "mednli": _choice(
        ("entailment", "contradiction", "neutral"),
        "A premise from a clinical note and a hypothesis, and the question how the hypothesis follows from it.",
        ignore_case=True,
    ),
    "medqa": _choice(_LETTERS, "A question of a medical examination with four options, A to D, one of them right."),
    "cqa": _choice(("Yes", "No"), "A passage of a consumer contract and a question about it that yes or no answers."),
    "cfa": _choice(("A", "B", "C"), "A question of a financial analyst's examination with three options, A to C."),
    "gpqa": _choice(_LETTERS, "A question at the level of a doctorate in a natural science with four options, A to D."),
    "medmcqa": _choice(_LETTERS, "A question of a medical entrance examination with four options, A to D."),
    "pubmedqa": _choice(
        ("yes", "no", "maybe"), "An abstract of a biomedical study and a question that it answers.", ignore_case=True
    ),
}
"""By name."""
