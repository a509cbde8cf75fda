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
from tests.end_to_end.nodes import Nodes, nodes
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


class BeyondTheLink:
    """The node there, which is started again where it ends: Ray takes a node for dead that misses five health checks,
    and such a node ends as soon as it hears of that; a cluster's autoscaler or operator then starts another."""

    def __init__(self, cluster: Nodes, cable: Link, role: str) -> None:
        self._cluster, self._cable, self._role = cluster, cable, role
        self.num_starts = 0
        self._start()

    def _start(self) -> None:
        self._node = self._cluster.join(*node_of_role(self._role), host=FAR, within=self._cable.far)
        self.num_starts += 1

    def look(self) -> None:
        """Now and then."""
        if self._node.has_ended:
            self._start()


@pytest.mark.parametrize("far_role", ROLES)
def test_a_link_that_is_cut_and_healed_costs_no_prompt(
    cable: Link, start_model: Path, tmp_path: Path, far_role: str
) -> None:
    (near_role,) = set(ROLES) - {far_role}

    def steps() -> int:
        return len(read_metrics(tmp_path / "run"))

    with nodes(tmp_path, [["--num-cpus=0"]], host=NEAR, within=cable.near) as cluster:
        cluster.join(*node_of_role(near_role))
        beyond = BeyondTheLink(cluster, cable, far_role)

        def is_past(step: int) -> bool:
            beyond.look()
            return steps() > step

        process = start_run(cluster, start_model, tmp_path)
        try:
            process.wait_for(lambda: steps() >= 30, "step 30")
            cable.cut()
            time.sleep(CUT_S)
            before = steps()
            cable.heal()
            healed_at = time.monotonic()
            process.wait_for(lambda: is_past(before), "a step after the cut")
            back_s = time.monotonic() - healed_at
            process.wait_for(lambda: is_past(NUM_STEPS - 1), "the last step")
            assert process.wait() == 0, process.output()
        finally:
            process.end()
            print(f"\n{process.output()}")
    print(
        f"\n{far_role} beyond the link: cut for {CUT_S:g} s at step {before}; further {back_s:.0f} s after "
        f"it was healed; the node there was started {beyond.num_starts} times"
    )
    check_trained_once(tmp_path / "run", NUM_STEPS)
