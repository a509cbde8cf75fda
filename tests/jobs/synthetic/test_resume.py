"""A synthesis that is killed at any moment repeats no call that was answered, and selects the same rows."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from random import Random

from raylign.jobs.synthetic.given import Given
from tests.jobs.synthetic.by_hand import AT_ONCE, config_of, demos, make
from tests.jobs.synthetic_teacher import SumTeacher
from tests.rewards.chat_server import ChatServer, chat_server

NUM_DEMOS = 12
"""As many as rows, so that every prompt shows some and no two are the same: the teacher's replies depend on the prompt
alone."""
FINAL = ("selected/train/data-00000-of-00001.arrow", "selected/train/state.json", "synthetic.parquet", "dropped.jsonl")


def job(folder: Path, server: ChatServer) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", "tests.jobs.synthetic.by_hand", str(folder), server.address, str(NUM_DEMOS)]
    return subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True)


def rest(folder: Path, server: ChatServer) -> list[str]:
    """The job to its end, in this process; the selected rows."""
    ids: list[str] = make(config_of(folder, server.address), Given(demos(NUM_DEMOS)))["selected_ids"]
    return ids


def test_kills_at_random_moments_repeat_no_answered_call_and_select_the_same_rows(tmp_path: Path) -> None:
    with chat_server(SumTeacher(counts_repetitions=False)) as server:
        selected = rest(tmp_path / "whole", server)
        num_calls = len(server.asked)
    random, kills = Random(0), 0
    moments = sorted(random.sample(range(2, num_calls), 3))
    with chat_server(SumTeacher(counts_repetitions=False, delay_s=0.01)) as server:
        for moment in moments:
            process = job(tmp_path / "killed", server)
            while len(server.asked) < moment + kills * AT_ONCE and process.poll() is None:
                time.sleep(0.002)
            kills += process.poll() is None
            process.kill()
            process.communicate()
        assert rest(tmp_path / "killed", server) == selected
        repeated = len(server.asked) - num_calls
    assert kills == len(moments)
    assert 0 <= repeated <= kills * AT_ONCE  # no more than was under way
    for name in FINAL:
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
