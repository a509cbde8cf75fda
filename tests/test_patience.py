"""The waiting of the tests themselves: who idles is given up, who works or waits for a core is not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests import patience
from tests.patience import Idleness, finished, wait_until

SLEEPS = [sys.executable, "-c", "import time; time.sleep(6000)"]
WORKS = "import time\nwhile time.process_time() < {processor_s}: pass\nprint('done')"


def test_a_program_that_idles_is_given_up_and_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "IDLE_S", 2.0)
    with pytest.raises(AssertionError, match="for 2 s it has done nothing"):
        finished(SLEEPS)


def test_a_program_that_works_may_take_longer_than_the_limit_of_idleness(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "IDLE_S", 1.0)
    done = finished([sys.executable, "-c", WORKS.format(processor_s=2.5)])
    assert (done.returncode, done.stdout) == (0, "done\n")


def test_output_sets_the_idleness_back(tmp_path: Path) -> None:
    with subprocess.Popen(SLEEPS) as process:
        idleness = Idleness([process.pid], [tmp_path / "log"])
        try:
            while idleness.look() < 0.5:
                pass
            (tmp_path / "log").write_text("a line")
            assert idleness.look() == 0.0
        finally:
            process.kill()


def test_a_wait_ends_with_the_process_that_it_waits_for() -> None:
    with (
        subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"]) as process,
        pytest.raises(AssertionError, match=r"(?s)ended with \[3\] before a miracle:\nits last words"),
    ):
        wait_until(lambda: False, "a miracle", [process], told=lambda: "its last words")
