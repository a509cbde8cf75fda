"""The `function` reward: a user's own Python function.

Given `path/to/file.py:function`, calls it once for each group, in a killable process:

    def reward(completions: list[str], prompt: str, references: list[str], row: dict) -> list[float]:
        return [float(references[0] in completion) for completion in completions]

It gives one finite number for each completion. Arguments are passed by name; `**_` may stand for those not needed.
Modules beside the file can be imported. A file that does not import is reported before anything starts.
"""

from __future__ import annotations

import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import field_validator

from raylign.rewards.base import Item, KillableConfig, Reward, Score, failure_of, typed_scores

SIGNATURE = "(completions, prompt, references, row)"


class FunctionConfig(KillableConfig):
    """A Python function of yours."""

    name: Literal["function"] = "function"
    """Which reward."""
    path: str
    """Where it is: `path/to/file.py:function`."""

    @field_validator("path")
    @classmethod
    def _check_path(cls, path: str) -> str:
        file, _, function = path.rpartition(":")
        if not file.endswith(".py") or not function.isidentifier():
            raise ValueError(f"{path!r} is not of the form path/to/file.py:function")
        return path


def load_function(path: str) -> Callable[..., Any]:
    """Import the file and find the function; ValueError says what is wrong with either."""
    file_name, _, function_name = path.rpartition(":")
    file = Path(file_name).expanduser().resolve()
    if not file.is_file():
        raise ValueError(f"no file {file_name} (looked for {file})")
    sys.path.insert(0, str(file.parent))
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[file.stem] = module
    try:
        spec.loader.exec_module(module)
    except BaseException as error:  # whatever a user's module raises, sys.exit() too
        raise ValueError(f"{file_name} does not import: {_described(error, file)}") from error
    function = getattr(module, function_name, None)
    if not callable(function):
        names = [name for name, value in vars(module).items() if inspect.isfunction(value)]
        raise ValueError(f"{file_name} has no function {function_name!r}; it has: {', '.join(names) or 'none'}")
    try:
        inspect.signature(function).bind(completions=[], prompt="", references=[], row={})
    except TypeError as error:
        raise ValueError(f"{path} cannot be called with {SIGNATURE}: {error}") from None
    return function


def _described(error: BaseException, file: Path) -> str:
    """`KeyError: 'x' (reward.py, line 3)`, the last line in the user's own file."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)]
    where = f" ({file.name}, line {lines[-1]})" if lines else ""
    return f"{type(error).__name__}: {error}{where}"


class FunctionReward(Reward):
    can_hang = True

    def __init__(self, config: FunctionConfig) -> None:
        self._function = load_function(config.path)
        self._file = Path(inspect.getsourcefile(self._function) or "")

    def score(self, items: Sequence[Item]) -> list[list[Score]]:
        return [self._score_group(item) for item in items]

    def _score_group(self, item: Item) -> list[Score]:
        try:
            values = self._function(
                completions=list(item.completions),
                prompt=item.prompt,
                references=list(item.references),
                row=dict(item.row),
            )
        except Exception as error:  # a reward may never end a run
            return [failure_of(error, _described(error, self._file))] * len(item.completions)
        return typed_scores(values, len(item.completions))
