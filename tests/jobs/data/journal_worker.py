"""A process that makes rows through a `RowJournal`, several at once and out of order, until it is killed.

Given the journal's path, a file of work and the number of rows; writes every row that it makes into the file of work.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from random import Random

from raylign.jobs.data.row_journal import RowJournal, key_of

MOST_AT_ONCE = 4


async def work(path: Path, made: Path, num_rows: int) -> None:
    gate = asyncio.Semaphore(MOST_AT_ONCE)
    random = Random()
    with RowJournal(path, "squares") as journal, made.open("a") as file:

        async def make(row: int) -> None:
            async with gate:
                key = key_of("square", row)
                if journal.has(str(row), key):
                    return
                journal.begin(str(row), key)
                await asyncio.sleep(random.random() / 100)
                journal.append(str(row), key, {"square": row * row, "text": "é" * row})
                file.write(f"{row}\n")
                file.flush()

        await asyncio.gather(*(make(row) for row in range(num_rows)))
        print(journal.repeated_in_flight)


if __name__ == "__main__":
    asyncio.run(work(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])))
