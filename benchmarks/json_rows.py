"""Rows of a JSON lines file, packed or not.

Given its path; gives the values, read as raylign reads them: a line ends at a newline alone, whatever its texts hold.
"""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

from raylign.rollout.data.json_lines import parse_json_lines


def json_rows(path: Path) -> list[Any]:
    content = path.read_bytes()
    text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode()
    return [row for _, row in parse_json_lines(text.split("\n"), path)]
