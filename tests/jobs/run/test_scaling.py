"""`raylign scale` and `rollout.autoscale` against a live run's folder: who asks, who answers, and what is refused."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from raylign.actors.elastic_fleet import ElasticFleet
from raylign.actors.fleet import Engine, FleetObserver
from raylign.actors.handles import LocalHandle
from raylign.jobs.config.loading import ConfigError, load_config
from raylign.jobs.config.train import TrainConfig
from raylign.jobs.run.output_folder import hold
from raylign.jobs.run.scale_request import ANSWER, REQUEST, ask, forget, read_answer, read_request
from raylign.jobs.run.scaling import scaling
from raylign.jobs.scale import ScaleConfig, scale
from tests.actors.test_fleet import Starts, Worker
from tests.patience import HANGS_S


class Ready(FleetObserver):
    """In the place of the publisher: who is up holds the weights."""

    def __init__(self, fleet: ElasticFleet) -> None:
        self._fleet = fleet

    async def engine_started(self, engine: Engine) -> None:
        self._fleet.mark_current(engine)


class Parts:
    """Of a run: its engines alone."""

    takes_turns = False

    def __init__(self, starts: Starts, num_engines: int) -> None:
        fleet = ElasticFleet([LocalHandle(Worker()) for _ in range(num_engines)], start=starts)
        fleet.observe(Ready(fleet))
        self.num_engines, self.rollouts = num_engines, self
        self.fleet = fleet


class Said:
    """In the place of the recorder."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.on_step: Callable[[int, dict[str, float]], None] | None = None

    def say(self, line: str) -> None:
        self.lines.append(line)


class Live:
    """A run that goes on in a folder."""

    def __init__(self, folder: Path, num_engines: int = 1, **rollout: Any) -> None:
        self.folder, self.starts, self.said = folder, Starts(), Said()
        self.num_engines, self._rollout = num_engines, rollout

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Live]:
        flags = {"rewards": [{"name": "exact"}], "rollout": {"num_engines": self.num_engines, **self._rollout}}
        if self._rollout.get("deterministic"):
            flags["async"] = {"max_staleness": 0}
        config = load_config(TrainConfig, [], flags)
        (self.folder / "config.yaml").write_text("name: run\n")
        (self.folder / "checkpoints").mkdir(exist_ok=True)
        parts: Any = Parts(self.starts, self.num_engines)
        said: Any = self.said
        self.fleet = parts.fleet
        with hold(self.folder):
            async with scaling(config, parts, self.folder, said):
                yield self

    async def scale(self, engines: int, deadline_s: float = HANGS_S) -> int:
        return await asyncio.to_thread(scale, ScaleConfig(run=self.folder, engines=engines, deadline_s=deadline_s))

    @property
    def num_serving(self) -> int:
        return len(self.fleet.serving)


def run(live: Live, test: Callable[[Live], Awaitable[None]]) -> None:
    async def within() -> None:
        async with live.running():
            await asyncio.wait_for(test(live), HANGS_S)

    asyncio.run(within())


def test_engines_join_and_leave_and_the_command_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def test(live: Live) -> None:
        assert await live.scale(3) == 0 and live.num_serving == 3
        assert await live.scale(3) == 0
        assert await live.scale(1) == 0 and live.num_serving == 1

    live = Live(tmp_path)
    run(live, test)
    assert live.said.lines == [
        "engines: 1 → 3, asked for by `raylign scale`",
        "engines: 3 → 1, asked for by `raylign scale`",
    ]
    said = capsys.readouterr().out.splitlines()
    assert said[-1] == "1 engines serve" and "3 engines serve" in said


def test_one_that_cannot_join_is_told_and_the_run_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def test(live: Live) -> None:
        live.starts.num_failures = 1
        assert await live.scale(3) == 1
        assert live.num_serving == 2

    run(Live(tmp_path), test)
    assert "2 engines serve; 1 could not join: rollout worker" in capsys.readouterr().out


def test_a_newer_request_takes_the_place_of_the_one_under_way(tmp_path: Path) -> None:
    async def test(live: Live) -> None:
        live.starts.let.clear()
        first = asyncio.create_task(live.scale(3))
        while not live.starts.numbers:
            await asyncio.sleep(0.01)
        assert await live.scale(1) == 0
        with pytest.raises(ValueError, match="meanwhile somebody has asked for 1 engines"):
            await first
        assert live.num_serving == 1

    run(Live(tmp_path), test)


def test_a_deterministic_run_refuses(tmp_path: Path) -> None:
    async def test(live: Live) -> None:
        with pytest.raises(ValueError, match=r"cannot have another number of engines: rollout\.deterministic fixes"):
            await live.scale(2)

    run(Live(tmp_path, deterministic=True), test)


def test_where_no_run_goes_on_nothing_is_left_behind(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"is no run folder: it has no config\.yaml"):
        scale(ScaleConfig(run=tmp_path / "nothing", engines=2))
    (tmp_path / "config.yaml").write_text("name: run\n")
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(ValueError, match=r"no run goes on in .*--resume"):
        scale(ScaleConfig(run=tmp_path, engines=2))
    assert {path.name for path in tmp_path.iterdir()} == {"config.yaml", "checkpoints"}


def test_the_end_of_the_run_ends_the_wait(tmp_path: Path) -> None:
    async def test(live: Live) -> None:
        live.starts.let.clear()
        waiting.append(asyncio.create_task(live.scale(2)))
        while not live.starts.numbers:
            await asyncio.sleep(0.01)

    async def whole() -> None:
        live = Live(tmp_path)
        async with live.running():
            await test(live)
        with pytest.raises(ValueError, match="the run ended before its engines were 2"):
            await waiting[0]

    waiting: list[asyncio.Task[int]] = []
    asyncio.run(asyncio.wait_for(whole(), HANGS_S))


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{", '{"request_id": 1, "num_engines": 2}', '{"request_id": "x", "num_engines": 1e99}', "[" * 5000],
    ids=range(6),
)
def test_a_damaged_request_is_none(text: str, tmp_path: Path) -> None:
    (tmp_path / REQUEST).write_text(text)
    (tmp_path / ANSWER).write_text(text)
    assert read_request(tmp_path) is None
    assert read_answer(tmp_path, ask(tmp_path, 2)) is None
    forget(tmp_path)
    forget(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_request_that_asks_for_nobody_is_refused(tmp_path: Path) -> None:
    """Written by something else than the command, which does not take it."""

    async def test(live: Live) -> None:
        request = ask(live.folder, 0)
        while (said := read_answer(live.folder, request)) is None:
            await asyncio.sleep(0.01)
        assert said.state == "refused" and "needs at least 1" in said.message and live.num_serving == 2

    run(Live(tmp_path, num_engines=2), test)


STEP = {"time/step_s": 1.0, "idle/learner_share": 0.0}


def test_engines_follow_what_the_steps_measure(tmp_path: Path) -> None:
    async def test(live: Live) -> None:
        tell = live.said.on_step
        assert tell is not None
        for step in range(2):
            tell(step, STEP | {"time/wait_s": 0.5, "idle/log_share": 0.4})
        tell(2, {"evaluation/accuracy": 0.5})  # no step
        await live.fleet.until(lambda: live.num_serving == 2)
        await live.fleet.settled()
        with pytest.raises(ValueError, match=r"rollout\.autoscale decides how many engines it has"):
            await live.scale(1)
        for step in range(2):
            tell(step, STEP | {"time/wait_s": 0.0, "idle/log_share": 0.9})
        await live.fleet.until(lambda: live.num_serving == 1)

    live = Live(tmp_path, autoscale={"max_engines": 2, "patience_steps": 2, "remember_steps": 0})
    run(live, test)
    assert (
        live.said.lines[0] == "engines: 1 → 2, step 1: the learner waits 50%, the log is 40% full (rollout.autoscale)"
    )


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"async": {"max_staleness": 0}}, "async.max_staleness above 0"),
        ({"rollout": {"num_engines": 3, "autoscale": {"max_engines": 2}}}, "rollout.num_engines is 3: the run begins"),
        ({"rollout": {"autoscale": {"max_engines": 0}}}, "max_engines"),
    ],
    ids=["turns", "outside", "none"],
)
def test_a_policy_that_cannot_work_is_refused_before_anything_starts(flags: dict[str, Any], words: str) -> None:
    values = {"rewards": [{"name": "exact"}], "rollout": {"autoscale": {"max_engines": 2}}} | flags
    with pytest.raises(ConfigError, match=words):
        load_config(TrainConfig, [], values)


def test_requests_are_small_and_plain(tmp_path: Path) -> None:
    request = ask(tmp_path, 7)
    assert json.loads((tmp_path / REQUEST).read_text()) == {"request_id": request.request_id, "num_engines": 7}
    assert read_request(tmp_path) == request
