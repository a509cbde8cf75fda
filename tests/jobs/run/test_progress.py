"""Progress says reward, tokens per second and time left, on a terminal and in a log."""

import io
import re
import time

import pytest
from rich.console import Console

from raylign.jobs.run import progress as progress_module
from raylign.jobs.run.progress import Progress, duration, fitting, shown
from tests.patience import wait_until

METRICS = {"reward/mean": 0.5, "rollout/accuracy": 0.25, "learner/loss": 1.0, "rollout/tokens_per_s": 9000.4}


def test_a_log_gets_plain_lines_and_the_last_step_always() -> None:
    log = io.StringIO()
    with Progress("grpo", total=3, console=Console(file=log, width=40), every_s=60) as progress:
        for step in (1, 2, 3):
            progress.advance(step, METRICS)
    lines = log.getvalue().splitlines()
    assert len(lines) == 2  # the first, then nothing for a minute, then the last
    assert lines[0].startswith("grpo: 1/3 steps  reward 0.500  accuracy 25.0%  tokens/s 9,000")
    assert lines[0].endswith("left")
    assert lines[1] == "grpo: 3/3 steps  reward 0.500  accuracy 25.0%  tokens/s 9,000"
    assert "\x1b" not in log.getvalue()


def test_a_terminal_gets_a_bar() -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=120)
    with Progress("sft", total=4, start=2, console=console) as progress:
        progress.advance(3, {"learner/loss": 0.25, "learner/tokens_per_s": 1200.0})
        progress.say("evaluation at step [3]")
    text = screen.getvalue()
    assert "3/4" in text and "loss 0.2500" in text and "tokens/s 1,200" in text and "left" in text
    assert "evaluation at step [3]" in text


def test_a_long_wait_says_what_it_waits_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress_module, "REMINDER_S", 0.05)
    log = io.StringIO()
    progress = Progress("grpo", total=3, console=Console(file=log))
    with progress.waiting("starting the engines"):
        wait_until(lambda: "still" in log.getvalue(), "reminder")
    lines = log.getvalue().splitlines()
    assert lines[0] == "starting the engines"
    assert re.fullmatch(r"still starting the engines \(\d+s\)", lines[1])
    time.sleep(0.1)
    assert len(log.getvalue().splitlines()) == len(lines)


def test_what_is_shown_depends_on_what_there_is() -> None:
    assert shown({"evaluation/accuracy": 0.5}) == "accuracy 50.0%"
    assert shown({"learner/loss": 0.5}) == "loss 0.5000"
    assert shown({"learner/loss": None}) == ""


def test_durations_are_short() -> None:
    assert [duration(s) for s in (4.4, 60, 200, 7500)] == ["4s", "1m00s", "3m20s", "2h05m"]


def test_a_narrow_terminal_shows_whole_facts_only() -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=80, color_system=None)
    with Progress("quickstart-grpo", total=160, console=console) as progress:
        progress.advance(18, {"reward/mean": 0.291, "rollout/accuracy": 0.291, "rollout/tokens_per_s": 1372.0})
    last = [line for line in re.split(r"[\r\n]|\x1b\[[0-9;?]*[A-Za-z]", screen.getvalue()) if "18/160" in line][-1]
    assert len(last.rstrip()) <= 80 and "…" not in last
    assert "left" in last and "reward 0.291" in last and "tokens" not in last
    assert fitting(["3s left", "", "reward 1"], 99) == "3s left  reward 1" and fitting(["12345"], 4) == ""
