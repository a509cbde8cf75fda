"""A pool in one process whose engine follows a script, for the jobs that draw answers; as a program, a draw to be
killed.

Given a folder and seconds for each token; draws into `draws.jsonl` there.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import numpy as np

from raylign.actors.cluster import ClusterConfig
from raylign.actors.fleet import Fleet
from raylign.actors.handles import LocalHandle
from raylign.actors.reward_server import RewardServer
from raylign.actors.rollout_pool import RolloutPool
from raylign.actors.rollout_worker import RolloutWorker
from raylign.jobs.data.draw_log import DrawIdentity, DrawLog
from raylign.jobs.data.drawing import Drawing, DrawReport, draw_missing
from raylign.rewards.rules import NumericConfig
from raylign.rollout.engine.config import EngineConfig
from raylign.rollout.engine.fake_engine import FakeEngine
from raylign.rollout.sample import Prompt
from raylign.rollout.sampling import SamplingConfig
from tests.patience import HANGS_S

NUM_ANSWERS = 4
IDENTITY = DrawIdentity("fake@1", "fingerprint", NUM_ANSWERS)


def prompts(count: int) -> list[Prompt]:
    return [
        Prompt(f"p-{n}", n, f"say {n}:", np.array([1], np.int32), (str(n),), fingerprint="fingerprint", row={"n": n})
        for n in range(count)
    ]


def answer(prompt: Prompt, seed: int) -> str:
    """Right, wrong, or empty, by the seed."""
    return [prompt.references[0], "no", "99", "0"][seed % 4]


def drawing(**changes: object) -> Drawing:
    values = {
        "title": "draw",
        "model_path": "fake",
        "sampling": SamplingConfig(max_tokens=8, num_completions=NUM_ANSWERS),
        "rewards": [NumericConfig()],
        "seed": 5,
        "deterministic": True,
        "engine": EngineConfig(),
        "num_engines": 1,
        "cluster": ClusterConfig(placement_deadline_s=HANGS_S),
        "answer_deadline_s": HANGS_S,
    }
    return Drawing(**{**values, **changes})  # type: ignore[arg-type]


async def draw_by_hand(
    log: DrawLog, wanted: list[Prompt], token_s: float = 0.0, settings: Drawing | None = None
) -> DrawReport:
    """As `draw`, with an engine of this process."""
    settings = settings or drawing()
    engine = FakeEngine(answer, token_s)
    await engine.start()
    worker = RolloutWorker.around(engine, seed=settings.seed)
    pool = RolloutPool(
        Fleet([LocalHandle(worker)]), LocalHandle(RewardServer(list(settings.rewards))), deadline_s=HANGS_S
    )
    report = DrawReport()
    missing = [prompt for prompt in wanted if prompt.ordinal not in log.drawn]
    if missing:
        await draw_missing(settings, pool, missing, log, report)
    return report


def main() -> None:
    folder, token_s = Path(sys.argv[1]), float(sys.argv[2])
    with DrawLog(folder / "draws.jsonl", IDENTITY) as log:
        for prompt in prompts(40):  # one at a time, so that a kill comes between two lines
            asyncio.run(draw_by_hand(log, [prompt], token_s))


if __name__ == "__main__":
    main()
