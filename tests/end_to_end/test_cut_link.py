"""The link between two nodes of a run is cut for half a minute, and healed: packets vanish, and no process has died.

Given raylets in two network namespaces: the driver's and one role's in the one, the other role's in the other.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from raylign.jobs.run.folder import read_metrics
from tests.end_to_end.namespaces import FAR, NEAR, Link, link, why_not
from tests.end_to_end.nodes import nodes
from tests.end_to_end.processes import WatchedProcess
from tests.end_to_end.test_lost_node import NUM_STEPS, ROLES, node_of_role, start_run
from tests.end_to_end.trained import check_trained_once

pytestmark = [pytest.mark.ray, pytest.mark.slow]
CUT_S = 30.0


@pytest.fixture
def cable() -> Iterator[Link]:
    if reason := why_not():
        pytest.skip(f"no network namespaces here: {reason}")
    with link() as cable:
        yield cable


@pytest.mark.parametrize("far_role", ROLES)
def test_a_link_that_is_cut_and_healed_costs_no_prompt(
    cable: Link, start_model: Path, tmp_path: Path, far_role: str
) -> None:
    (near_role,) = set(ROLES) - {far_role}
    with nodes(tmp_path, [["--num-cpus=0"]], host=NEAR, within=cable.near) as cluster:
        cluster.join(*node_of_role(near_role))
        cluster.join(*node_of_role(far_role), host=FAR, within=cable.far)
        process = start_run(cluster, start_model, tmp_path)
        try:
            process.wait_for(lambda: steps(tmp_path) >= 30, "step 30")
            back_s = cut_and_heal(cable, process, tmp_path)
            assert process.wait() == 0, process.output()
        finally:
            process.end()
            print(f"\n{process.output()}")
    print(f"\n{far_role} beyond the link: cut for {CUT_S:g} s; the next step {back_s:.0f} s after it was healed")
    check_trained_once(tmp_path / "run", NUM_STEPS)


def cut_and_heal(cable: Link, process: WatchedProcess, folder: Path) -> float:
    """Seconds from then until the first step that needed the link."""
    cable.cut()
    time.sleep(CUT_S)
    before = steps(folder)
    cable.heal()
    healed_at = time.monotonic()
    process.wait_for(lambda: steps(folder) > before, "a step after the cut")
    return time.monotonic() - healed_at


def steps(folder: Path) -> int:
    return len(read_metrics(folder / "run"))
