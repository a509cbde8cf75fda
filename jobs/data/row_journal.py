"""What a stage made of its rows, one line each, written as they finish: nothing that is there is made again.

Given a path and the name of the stage; gives the results that are there already, and appends others. A line's key is
(stage, row, hash of everything that decides the result): a row whose hash is another one now is refused. A line that
was half-written when the process died is cut off. `DrawLog` is the same for answers of a model.

What resuming promises: a finished row is never made again; a row that was begun and not finished, at most as many as
were under way together, is made again and counted in `repeated_in_flight`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO


def key_of(*parts: Any) -> str:
    """One short hash of plain values."""
    text = json.dumps(parts, ensure_ascii=False, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()


@dataclass(frozen=True)
class _Line:
    """A row as the file has it."""

    number: int
    key: str
    result: Any = None
    finished: bool = False


class RowJournal:
    """`with RowJournal(path, "verify") as journal: if not journal.has(row, key): …; journal.append(row, key, result)`.

    `begin(row, key)` before the work makes what was under way countable; a stage that cannot be broken off inside a row
    may leave it out.
    """

    def __init__(self, path: Path, stage: str) -> None:
        self.path = path
        self.stage = stage
        self.repeated_in_flight = 0
        """Rows begun in this process that an earlier one had begun and not finished."""
        self._lines: dict[str, _Line] = {}
        num_bytes = self._read() if path.exists() else 0
        self._begun_before = {row for row, line in self._lines.items() if not line.finished}
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file: BinaryIO = path.open("ab")
        self._file.truncate(num_bytes)

    def __len__(self) -> int:
        """Finished rows."""
        return sum(line.finished for line in self._lines.values())

    def has(self, row: str, key: str) -> bool:
        """Whether the row is finished. Raises where it is there under another key."""
        line = self._checked(row, key)
        return line is not None and line.finished

    def result(self, row: str, key: str) -> Any:
        """What was made of a finished row."""
        if not self.has(row, key):
            raise ValueError(f"{self.path}: row {row} of stage {self.stage} is not finished")
        return self._lines[row].result

    def results(self, rows: Iterable[tuple[str, str]]) -> list[Any]:
        """Of the finished among the (row, key) given, in their order and not in that of the file."""
        return [self._lines[row].result for row, key in rows if self.has(row, key)]

    def begin(self, row: str, key: str) -> None:
        """Note that work on the row starts."""
        if self.has(row, key):
            raise ValueError(f"{self.path}: row {row} of stage {self.stage} is finished already")
        if row in self._begun_before:
            self._begun_before.remove(row)
            self.repeated_in_flight += 1
        self._write({"stage": self.stage, "row": row, "key": key, "begun": True})
        self._lines[row] = _Line(len(self._lines) + 1, key)

    def withdraw(self, row: str, key: str) -> None:
        """The work on a row that was begun ended without a result, and with nothing under way."""
        self._write({"stage": self.stage, "row": row, "key": key, "withdrawn": True})
        self._lines.pop(row, None)

    def append(self, row: str, key: str, result: Any) -> None:
        """One line, out of this process when the call returns: safe from its death."""
        if self.has(row, key):
            raise ValueError(f"{self.path}: row {row} of stage {self.stage} is finished already")
        self._write({"stage": self.stage, "row": row, "key": key, "result": result})
        self._lines[row] = _Line(len(self._lines) + 1, key, result, finished=True)

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> RowJournal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _write(self, line: dict[str, Any]) -> None:
        # half a surrogate pair in a reply is written as its escape; a data row may hold dates, which JSON does not know
        text = json.dumps(line, ensure_ascii=False, default=str)
        self._file.write(text.encode("utf-8", "backslashreplace") + b"\n")
        self._file.flush()

    def _checked(self, row: str, key: str) -> _Line | None:
        line = self._lines.get(row)
        if line is not None and line.key != key:
            raise ValueError(
                f"{self.path}:{line.number}: row {row} of stage {self.stage} was made under {line.key}, and would now "
                f"be made under {key}: its input, model or settings have changed; put them back, or choose a new folder"
            )
        return line

    def _read(self) -> int:
        """Take up all whole lines; gives their bytes."""
        content = self.path.read_bytes()
        whole, newline, _ = content.rpartition(b"\n")
        for number, text in enumerate(whole.split(b"\n") if newline else [], 1):
            row, line = self._parsed(text, number)
            if line is None:
                self._lines.pop(row, None)
                continue
            before = self._lines.get(row)
            if before is not None and (before.finished or before.key != line.key):
                raise ValueError(
                    f"{self.path}:{number}: row {row} stands in line {before.number} already; remove one of the lines"
                )
            self._lines[row] = line
        return len(whole) + len(newline)

    def _parsed(self, text: bytes, number: int) -> tuple[str, _Line | None]:
        """None: the row was withdrawn."""
        try:
            values = json.loads(text)
            stage, row, key = str(values["stage"]), str(values["row"]), str(values["key"])
            begun, withdrawn = bool(values.get("begun")), bool(values.get("withdrawn"))
            line = None if withdrawn else _Line(number, key, None if begun else values["result"], finished=not begun)
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{self.path}:{number}: not what this job writes ({error!r}); remove the line: its row is made again"
            ) from None
        if stage != self.stage:
            raise ValueError(
                f"{self.path}:{number}: written by the stage {stage}, and this is {self.stage}; choose a new folder"
            )
        return row, line
