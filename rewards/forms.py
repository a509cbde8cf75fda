"""The forms in which reward functions come: TRL's, verl's, OpenRLHF's, one completion at a time, and ours.

Given a callable, `form_of` gives the form that its parameters say; given a form and an item, `arguments` gives what the
callable is called with. A parameter with the name of a data column gets that column.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from raylign.rewards.base import Item
from raylign.rewards.returned import Logged

FormName = Literal["raylign", "trl", "verl", "verl_batch", "openrlhf", "single"]

DESCRIPTIONS: dict[str, str] = {
    "raylign": "a group: (completions, prompt, references, row)",
    "trl": "TRL: (prompts, completions, columns as lists)",
    "verl": "verl: (data_source, solution_str, ground_truth, extra_info)",
    "verl_batch": "verl, batched: (data_sources, solution_strs, ground_truths, extra_infos)",
    "openrlhf": "OpenRLHF: (queries, prompts, labels)",
    "single": "one completion at a time",
}
ONE_AT_A_TIME = ("verl", "single")
OURS = {"completions", "prompt", "references", "row"}
COMPLETION = (
    "completion", "response", "solution_str", "output", "generation", "generated_text", "prediction", "pred",
    "candidate", "model_output", "text",
)  # fmt: skip
REFERENCE = ("reference", "ground_truth", "label", "target", "answer", "gold", "expected", "solution")
PROMPT = ("prompt", "question", "query")
OF_TRL = {"prompts", "completion_ids", "trainer_state", "log_metric", "log_extra"}
NOT_GIVEN = {"completion_ids": "token ids", "environments": "environments"}
"""That TRL's trainer gives and rewards here do not get: they see texts."""


class NoTrainerState:
    """In the place of TRL's `trainer_state`: rewards do not know the step that they are asked in."""

    def __bool__(self) -> bool:
        return False

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"trainer_state.{name} is not known here: rewards are scored beside the training")


@dataclass(frozen=True)
class Arguments:
    """Of one call."""

    positional: tuple[Any, ...]
    named: dict[str, Any]

    def give(self, function: Callable[..., Any]) -> Any:
        """Call it."""
        return function(*self.positional, **self.named)


class UnknownForm(ValueError):
    """No form fits the parameters."""


def signature_of(function: Callable[..., Any]) -> inspect.Signature:
    """Parameters, also of what a decorator without `functools.wraps` hides."""
    signature = inspect.signature(function)
    kinds = {parameter.kind for parameter in signature.parameters.values()}
    if kinds == {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}:
        closed_over = [cell.cell_contents for cell in getattr(function, "__closure__", None) or ()]
        inner = [value for value in closed_over if callable(value) and not inspect.isclass(value)]
        if len(inner) == 1:
            return signature_of(inner[0])
    return signature


def is_async(function: Callable[..., Any]) -> bool:
    """Whether a call gives something to await; also of partials, callable objects and decorated functions."""
    while isinstance(function, functools.partial):
        function = function.func
    function = inspect.unwrap(function)
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004


def _by_name(signature: inspect.Signature) -> dict[str, inspect.Parameter]:
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return {name: parameter for name, parameter in signature.parameters.items() if parameter.kind not in variadic}


def form_of(function: Callable[..., Any], path: str) -> FormName:
    """What the parameters say. UnknownForm with all forms where they say nothing."""
    signature = signature_of(function)
    parameters = _by_name(signature)
    names = set(parameters)
    takes_more = any(each.kind is inspect.Parameter.VAR_KEYWORD for each in signature.parameters.values())
    required = [name for name, each in parameters.items() if each.default is inspect.Parameter.empty]
    if "solution_strs" in names:
        return "verl_batch"
    if "solution_str" in names:
        return "verl"
    if "queries" in names:
        return "openrlhf"
    if "completions" in names:
        return "trl" if names & OF_TRL or set(required) - OURS else "raylign"
    if names & set(COMPLETION) or (len(required) == 1 and parameters[required[0]].annotation in (str, "str")):
        return "single"
    if takes_more and not required:
        return "trl" if "prompts" in names else "raylign"
    forms = "; ".join(DESCRIPTIONS[name] for name in ("trl", "verl", "openrlhf", "single"))
    raise UnknownForm(
        f"{path} cannot be called with (completions, prompt, references, row): its parameters are {signature}. "
        f"Other forms are found by their parameters: {forms} (`completion`, `response` or `text`)"
    )


def check_parameters(function: Callable[..., Any], form: FormName, path: str) -> None:
    """Raise where a function cannot do without something that rewards do not get."""
    required = {
        name
        for name, each in _by_name(signature_of(function)).items()
        if each.default is inspect.Parameter.empty and name in NOT_GIVEN
    }
    if form == "trl" and required:
        name = min(required)
        raise UnknownForm(f"{path} needs `{name}`, and rewards here get texts, no {NOT_GIVEN[name]}; give it a default")


def has_chats(item: Item) -> bool:
    """Whether the data are chats: the row holds a list of messages."""
    return any(
        isinstance(cell, list) and cell and all(isinstance(each, Mapping) and "role" in each for each in cell)
        for cell in item.row.values()
    )


def arguments(
    form: FormName,
    function: Callable[..., Any],
    item: Item,
    as_chats: bool | None = None,
    logged: Logged | None = None,
) -> Iterator[Arguments]:
    """What each call is given: one for the group, or one for each completion. `as_chats`: completions as messages;
    None: as the form has them. `logged`: takes what a function of TRL's form logs."""
    signature = signature_of(function)
    parameters = _by_name(signature)
    accepted = set(parameters)
    by_place = [name for name, each in parameters.items() if each.kind is inspect.Parameter.POSITIONAL_ONLY]
    takes_more = any(each.kind is inspect.Parameter.VAR_KEYWORD for each in signature.parameters.values())
    bound: set[str] = set(function.keywords) if isinstance(function, functools.partial) else set()
    for offered in _offered(form, item, as_chats, accepted):
        if form in ("trl", "raylign") and logged is not None:
            offered |= {"log_metric": logged.log_metric, "log_extra": logged.log_extra}
        given = {
            name: value for name, value in offered.items() if (takes_more or name in accepted) and name not in bound
        }
        yield Arguments(tuple(given.pop(name) for name in by_place if name in given), given)


def _offered(form: FormName, item: Item, as_chats: bool | None, accepted: set[str]) -> Iterator[dict[str, Any]]:
    texts, references = list(item.completions), list(item.references)
    count = len(texts)
    first = references[0] if references else None
    if form in ("raylign", "trl"):
        chats = (form == "trl" and has_chats(item)) if as_chats is None else as_chats
        prompt = item.row.get("prompt")
        if chats and not isinstance(prompt, list):
            prompt = [dict(message) for message in item.messages] or [{"role": "user", "content": item.prompt}]
        columns = {name: [value] * count for name, value in item.row.items() if name not in ("prompt", "completion")}
        named = {name: [first] * count for name in accepted & set(REFERENCE) - columns.keys()}
        offered: dict[str, Any] = columns | named
        offered |= {
            "prompts": [prompt if prompt is not None else item.prompt] * count,
            "completions": _as_messages(texts) if chats else texts,
            "trainer_state": NoTrainerState(),
        }
        if form == "raylign":
            offered |= {"prompt": item.prompt, "references": references, "row": dict(item.row)}
        yield offered
    elif form == "openrlhf":
        yield {
            "queries": [item.prompt + text for text in texts],
            "prompts": [item.prompt] * count,
            "labels": [first] * count,
        }
    elif form == "verl_batch":
        yield {f"{name}s": [value] * count for name, value in _of_verl(item).items()} | {"solution_strs": texts}
    else:
        for text in texts:
            values: dict[str, Any] = dict.fromkeys(REFERENCE, first) | dict.fromkeys(PROMPT, item.prompt)
            values |= item.row | {"references": references, "row": dict(item.row)}
            if form == "verl":
                yield values | _of_verl(item) | {"solution_str": text}
            else:
                name = next((name for name in COMPLETION if name in accepted), None) or next(iter(accepted))
                yield values | {name: text}


def _of_verl(item: Item) -> dict[str, Any]:
    """verl keeps the answer in `reward_model.ground_truth`."""
    rule = item.row.get("reward_model")
    truth = rule.get("ground_truth") if isinstance(rule, Mapping) else None
    if truth is None:
        truth = item.row.get("ground_truth", item.references[0] if item.references else None)
    return {
        "data_source": item.row.get("data_source", ""),
        "ground_truth": truth,
        "extra_info": item.row.get("extra_info", dict(item.row)),
    }


def _as_messages(texts: list[str]) -> list[list[dict[str, str]]]:
    return [[{"role": "assistant", "content": text}] for text in texts]
