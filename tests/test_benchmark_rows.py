"""Benchmarks read JSON lines as raylign does: a text with U+2028 in it is one row."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

from benchmarks.json_rows import json_rows


def test_a_line_of_json_ends_at_a_newline_alone(tmp_path: Path) -> None:
    rows = [{"text": "a\u2028b\x85c"}, {"text": "d"}]
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (tmp_path / "rows.jsonl").write_text(text, encoding="utf-8")
    (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    assert json_rows(tmp_path / "rows.jsonl") == json_rows(tmp_path / "rows.jsonl.gz") == rows
