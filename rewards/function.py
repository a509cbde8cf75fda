"""The `function` reward: a user's own Python function, in whatever form it comes.

Given `path/to/file.py:function` or `package.module:function`, calls it in a killable process:

    def reward(completions: list[str], prompt: str, references: list[str], row: dict) -> list[float]:
        return [float(references[0] in completion) for completion in completions]

Functions of TRL, verl and OpenRLHF, of one completion, and `async def` are told by their parameters (rewards/forms.py).
It gives a finite number for each completion; None: it does not apply to this one; a dict or tuple: further numbers
become metrics. A file that does not import is reported before anything starts.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import inspect
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from pydantic import Field, field_validator

from raylign.rewards.base import Item, KillableConfig, Reward, Score, failure_of
from raylign.rewards.forms import (
    DESCRIPTIONS,
    ONE_AT_A_TIME,
    Arguments,
    FormName,
    arguments,
    check_parameters,
    form_of,
    has_chats,
    is_async,
)
from raylign.rewards.returned import Logged, read_scores

OUR_PACKAGE = "raylign_reward"
"""Before the names under which files are imported, so that none stands in for another module."""
WANTS_CHATS = ("string indices must be", "'str' object has no attribute")
WANTS_TEXTS = ("got 'list'", "'list' object has no attribute", "must be str, not list", "list indices must be")
"""What Python says where a completion is of the other kind."""


class FunctionConfig(KillableConfig):
    """A Python function of yours."""

    name: Literal["function"] = "function"
    """Which reward."""
    path: str
    """Where it is: `path/to/file.py:function` or `package.module:function`."""
    form: Literal["auto"] | FormName = "auto"
    """How it is called: auto tells by its parameters; raylign, trl, verl, verl_batch, openrlhf, single."""
    max_concurrent: int = Field(16, ge=1)
    """`async def`: completions of a group that are awaited side by side."""

    spare_processes: int = Field(3, ge=0)
    """Further processes, each started only when a group has waited a second behind slow ones (a judge); 0: for a
    function that holds a model."""

    @field_validator("path")
    @classmethod
    def _check_path(cls, path: str) -> str:
        place, _, function = path.rpartition(":")
        is_module = all(part.isidentifier() for part in place.split("."))
        if not (place.endswith(".py") or is_module) or not all(part.isidentifier() for part in function.split(".")):
            raise ValueError(f"{path!r} is not of the form path/to/file.py:function or package.module:function")
        return path


def load_function(path: str) -> tuple[Callable[..., Any], Path]:
    """Import the file or module and find the function; ValueError says what is wrong with either."""
    place, _, function_name = path.rpartition(":")
    with _without_our_words(place):
        module, file = import_file(place) if place.endswith(".py") else _import_module(place)
    function: Any = module
    for part in function_name.split("."):
        is_of_object = inspect.isclass(function) and inspect.isfunction(inspect.getattr_static(function, part, None))
        function = getattr(_made(function, path, file) if is_of_object else function, part, None)
    if inspect.isclass(function) and any("__call__" in vars(each) for each in function.__mro__):
        function = _made(function, path, file)
    if not callable(function):
        names = [name for name, value in vars(module).items() if inspect.isfunction(value)]
        raise ValueError(f"{place} has no function {function_name!r}; it has: {', '.join(names) or 'none'}")
    return function, file


def _made(kind: Callable[[], Any], path: str, file: Path) -> Any:
    """An object of a class that is made of nothing."""
    try:
        return kind()
    except Exception as error:
        raise ValueError(f"{path} is of a class that cannot be made: {_described(error, file)}") from error


@contextmanager
def _without_our_words(place: str) -> Iterator[None]:
    """A module that reads a command line when it is imported finds an empty one, not ours."""
    words, sys.argv = sys.argv, [place]
    try:
        yield
    finally:
        sys.argv = words


def import_file(place: str) -> tuple[ModuleType, Path]:
    file = Path(place).expanduser().resolve()
    if not file.is_file():
        raise ValueError(f"no file {place} (looked for {file})")
    # Last on the path: a file that is called math.py is no one else's math.
    packages = [file.parent]
    while (packages[0] / "__init__.py").is_file() and packages[0] != packages[0].parent:
        packages.insert(0, packages[0].parent)
    sys.path += [str(folder) for folder in {file.parent, packages[0]} if str(folder) not in sys.path]
    # A package of our own stands for the folders, so that relative imports find what is beside the file.
    name = OUR_PACKAGE
    try:
        for depth, folder in enumerate(packages):
            name = f"{name}.{_word(folder.name)}" if depth else f"{OUR_PACKAGE}_{_word(folder.name)}"
            _load(name, folder / "__init__.py" if depth else None, folder)
        return _load(f"{name}.{_word(file.stem)}", file, None), file
    except BaseException as error:  # whatever a user's module raises, sys.exit() too
        raise ValueError(f"{place} does not import: {_described(error, file)}") from error


def _word(text: str) -> str:
    return re.sub(r"\W", "_", text) or "_"


def _load(name: str, file: Path | None, package: Path | None) -> ModuleType:
    if file is None:
        assert package is not None
        module = ModuleType(name)
        module.__path__ = [str(package)]
        sys.modules[name] = module
        return module
    places = None if package is None else [str(package)]
    spec = importlib.util.spec_from_file_location(name, file, submodule_search_locations=places)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _import_module(place: str) -> tuple[ModuleType, Path]:
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)
    try:
        module = importlib.import_module(place)
    except BaseException as error:
        if isinstance(error, ModuleNotFoundError) and error.name and f"{place}.".startswith(f"{error.name}."):
            raise ValueError(
                f"no module {place} (looked beside {here} and in the environment); a file is given as path/to/file.py"
            ) from None
        raise ValueError(f"{place} does not import: {_described(error, Path(place))}") from error
    return module, Path(getattr(module, "__file__", None) or place)


def _described(error: BaseException, file: Path) -> str:
    """`KeyError: 'x' (reward.py, line 3)`, the last line in the user's own file."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)]
    where = f" ({file.name}, line {lines[-1]})" if lines else ""
    words = f"{type(error).__name__}: {error}{where}"
    if isinstance(error, FileNotFoundError):
        words += f"; files beside the reward lie in {file.parent}, and relative paths begin at {Path.cwd()}"
    return words


class FunctionReward(Reward):
    can_hang = True

    def __init__(self, config: FunctionConfig) -> None:
        self._function, self._file = load_function(config.path)
        self._form: FormName = form_of(self._function, config.path) if config.form == "auto" else config.form
        check_parameters(self._function, self._form, config.path)
        self._is_async, self._max_concurrent = is_async(self._function), config.max_concurrent
        self._runner = asyncio.Runner()  # one for all calls: clients that a module keeps belong to a loop
        self._as_chats: bool | None = None
        self.is_pointwise = self._form in ONE_AT_A_TIME and not self._is_async
        self.form = DESCRIPTIONS[self._form] + (", async" if self._is_async else "")

    def score(self, items: Sequence[Item]) -> list[list[Score]]:
        return [self._score_group(item) for item in items]

    def close(self) -> None:
        self._runner.close()

    def _score_group(self, item: Item) -> list[Score]:
        if self._form in ONE_AT_A_TIME:
            calls = list(arguments(self._form, self._function, item))
            if self._is_async:
                return self._runner.run(self._score_side_by_side(calls, item))
            return [self._score_one(call, item) for call in calls]
        try:
            return self._call_group(item)
        except Exception as error:  # a reward may never end a run
            return [failure_of(error, self._words(error, item))] * len(item.completions)

    def _call_group(self, item: Item) -> list[Score]:
        """Completions are texts or chats, as the form and the data have them; a function that stumbles over one kind is
        given the other."""
        try:
            return self._call_once(item, self._as_chats)
        except (TypeError, AttributeError) as error:
            if self._as_chats is not None or self._form not in ("raylign", "trl"):
                raise
            had_chats = self._form == "trl" and has_chats(item)
            if not any(words in str(error) for words in (WANTS_TEXTS if had_chats else WANTS_CHATS)):
                raise
            scores = self._call_once(item, not had_chats)
        self._as_chats = not had_chats
        return scores

    def _call_once(self, item: Item, as_chats: bool | None) -> list[Score]:
        logged = Logged()
        (call,) = arguments(self._form, self._function, item, as_chats, logged)
        return logged.added_to(read_scores(self._awaited(call.give(self._function)), len(item.completions)))

    def _awaited(self, value: Any) -> Any:
        async def wait() -> Any:
            return await value

        async def collect() -> list[Any]:
            return [each async for each in value]

        if inspect.isasyncgen(value):
            return self._runner.run(collect())
        return self._runner.run(wait()) if inspect.isawaitable(value) else value

    def _score_one(self, call: Arguments, item: Item) -> Score:
        try:
            return read_scores([self._awaited(call.give(self._function))], 1)[0]
        except Exception as error:
            return failure_of(error, self._words(error, item))

    async def _score_side_by_side(self, calls: Sequence[Arguments], item: Item) -> list[Score]:
        gate = asyncio.Semaphore(self._max_concurrent)

        async def one(call: Arguments) -> Score:
            async with gate:
                try:
                    return read_scores([await call.give(self._function)], 1)[0]
                except Exception as error:
                    return failure_of(error, self._words(error, item))

        return list(await asyncio.gather(*map(one, calls)))

    def _words(self, error: Exception, item: Item) -> str:
        words = _described(error, self._file)
        if isinstance(error, TypeError) and "required" in str(error) and "argument" in str(error):
            words += f"; the data has the columns: {', '.join(item.row) or 'none'}"
        return words
