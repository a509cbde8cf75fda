"""Exported weights in the memory of every node that engines are on, whatever happens to a node on the way.

Given exported weights and engines; gives each engine the buckets of its own node, or the reason why that has none.

    courier of the learner's node ── one gloo or nccl group ──▶ courier of each other node ──▶ the engines there

Who waits for whom: couriers for each other, within the group's deadline; this file for couriers. At the first error, or
at `weights.deadline_s`, it asks all of them for a sign of life: whoever gives none is ended and replaced, the others
leave the group, and a new one is formed of those that are there. Engines generate meanwhile: they are in no group.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary

from raylign.actors.fleet import Engine
from raylign.actors.handles import kill
from raylign.actors.waiting import cause_of, wait_for
from raylign.actors.weights.calls import answer_of
from raylign.actors.weights.update import ExportedWeights, Phase, WeightUpdateError
from raylign.rollout.weights.buckets import BucketInfo
from raylign.rollout.weights.group import Backend

MAX_ROUNDS = 3
SIGN_OF_LIFE_S = 10.0
"""A courier answers at once, whatever its group does."""
GROUP_SHARE = 0.5
"""Of the deadline: after so long without a byte the group itself says so, before anybody who waits for it gives up."""
SETTING = "weights.deadline_s"


class BrokenGroupError(RuntimeError):
    """Some members failed. `lost`: those of them that gave no sign of life."""

    def __init__(self, cause: str, lost: Sequence[str]) -> None:
        super().__init__(cause)
        self.lost = lost


class NodeCopies:
    """One courier for each node, from its first use to `close`."""

    def __init__(
        self, backend: Backend, learner_node: str, start_courier: Callable[[str], Any], deadline_s: float
    ) -> None:
        """`start_courier(node)`: gives the handle of a `Courier` there."""
        self._backend, self._learner_node = backend, learner_node
        self._start_courier, self._deadline_s = start_courier, deadline_s
        self._couriers: dict[str, Any] = {}
        self._members: list[str] = []
        """Nodes of the group that stands, the learner's first."""
        self._copies: dict[str, tuple[ExportedWeights, list[BucketInfo]]] = {}
        self._nodes: WeakKeyDictionary[Engine, str] = WeakKeyDictionary()

    async def preflight(self, nodes: Sequence[str]) -> None:
        """Form the group and move a first MiB through it, before anybody loads a model."""
        others = sorted(set(nodes) - {self._learner_node})
        if not others:
            return
        try:
            await self._form([self._learner_node, *others])
        except BrokenGroupError as error:
            await self._dissolve(error.lost)
            raise RuntimeError(
                f"weights cannot travel by {self._backend} from node {self._learner_node} to {', '.join(others)}: "
                f"{error}. The nodes must reach each other on every TCP port; `weights.transport` chooses another way"
            ) from error

    async def bring(
        self, exported: ExportedWeights, engines: Sequence[Engine]
    ) -> tuple[dict[Engine, ExportedWeights], dict[Engine, WeightUpdateError]]:
        """What each engine is to load, and the engines whose node could not be reached."""
        nodes, errors = await self._nodes_of(engines, exported.version)
        reasons = await self._carry(exported, sorted(set(nodes.values()) - {self._learner_node}))
        here: dict[Engine, ExportedWeights] = {}
        for engine, node in nodes.items():
            if node == self._learner_node:
                here[engine] = exported
            elif node in reasons:
                cause = f"its node {node} did not get the weights: {reasons[node]}"
                side = f"engine {engine.number}"
                errors[engine] = WeightUpdateError(side, Phase.TRAVEL, exported.version, None, cause)
            else:
                here[engine] = replace(exported, buckets=tuple(self._copies[node][1]))
        return here, errors

    def forget(self, engine: Engine) -> None:
        """The copy on its node is damaged: it is sent again next time."""
        if (node := self._nodes.get(engine)) is not None:
            self._copies.pop(node, None)

    async def keep_to(self, engines: Sequence[Engine]) -> None:
        """End the couriers of nodes that all engines have left: a node with a process on it is never idle, and a
        cluster that shrinks would keep it. Nothing is done while it is not known where one of these will be."""
        if all(engine in self._nodes for engine in engines):
            needed = {self._learner_node, *(self._nodes[engine] for engine in engines)}
            if left := [node for node in self._couriers if node not in needed]:
                await self._dissolve([])
                await self._end(left)

    async def close(self) -> None:
        """End all couriers, and with them their memory."""
        self._members = []
        await self._end([*self._couriers])

    async def _end(self, nodes: Sequence[str]) -> None:
        couriers = [self._couriers.pop(node) for node in nodes]
        for node in nodes:
            self._copies.pop(node, None)
        stops = [wait_for(courier.stop.remote(), "a courier to stop", SIGN_OF_LIFE_S) for courier in couriers]
        await asyncio.gather(*stops, return_exceptions=True)
        for courier in couriers:
            kill(courier)

    async def _nodes_of(
        self, engines: Sequence[Engine], version: int
    ) -> tuple[dict[Engine, str], dict[Engine, WeightUpdateError]]:
        unknown = [engine for engine in engines if engine not in self._nodes]
        asked = [
            answer_of(f"engine {each.number}", each.handle.node.remote(), Phase.TRAVEL, version, self._deadline_s)
            for each in unknown
        ]
        errors: dict[Engine, WeightUpdateError] = {}
        for engine, answer in zip(unknown, await asyncio.gather(*asked, return_exceptions=True), strict=True):
            if isinstance(answer, WeightUpdateError):
                errors[engine] = answer
            elif isinstance(answer, BaseException):
                raise answer
            else:
                self._nodes[engine] = answer
        return {engine: self._nodes[engine] for engine in engines if engine not in errors}, errors

    async def _carry(self, exported: ExportedWeights, nodes: list[str]) -> dict[str, str]:
        """To all these nodes; the reason for each where that failed."""
        reasons: dict[str, str] = {}
        for _ in range(MAX_ROUNDS):
            missing = [node for node in nodes if not self._holds(node, exported)]
            if not missing:
                return {}
            try:
                await self._form([self._learner_node, *missing])
                await self._move(exported, missing)
            except BrokenGroupError as error:
                print(f"weights of version {exported.version} on their way to other nodes: {error}", flush=True)
                reasons = dict.fromkeys(missing, str(error))
                await self._dissolve(error.lost)
        return {node: reason for node, reason in reasons.items() if not self._holds(node, exported)}

    def _holds(self, node: str, exported: ExportedWeights) -> bool:
        return node in self._copies and self._copies[node][0] is exported

    async def _form(self, members: list[str]) -> None:
        if members == self._members:
            return
        await self._dissolve([])
        for node in members:
            if node not in self._couriers:
                try:
                    self._couriers[node] = self._start_courier(node)
                except Exception as error:
                    raise BrokenGroupError(f"no courier can be started on node {node}: {error!r}", [node]) from error
        await self._ask_all({node: self._couriers[node].process_id.remote() for node in members}, "start")
        first, deadline_s = self._couriers[members[0]], GROUP_SHARE * self._deadline_s
        opened = await self._ask_all({members[0]: first.open.remote(deadline_s)}, "listen")
        address, size = opened[members[0]], len(members)
        await self._ask_all(
            {
                node: self._couriers[node].join.remote(self._backend, address, member, size, deadline_s)
                for member, node in enumerate(members)
            },
            "form a group",
        )
        self._members = members

    async def _move(self, exported: ExportedWeights, nodes: list[str]) -> None:
        copies: dict[str, list[BucketInfo]] = {node: [] for node in nodes}
        for node in nodes:
            self._copies.pop(node, None)  # about to be written over
        for buckets in exported.calls():
            calls = {node: self._couriers[node].receive.remote(buckets) for node in nodes}
            calls[self._learner_node] = self._couriers[self._learner_node].send.remote(buckets)
            answers = await self._ask_all(calls, f"move buckets {buckets[0].index + 1} to {buckets[-1].index + 1}")
            for node in nodes:
                copies[node] += answers[node]
        for node in nodes:
            self._copies[node] = exported, copies[node]

    async def _ask_all(self, calls: dict[str, Awaitable[Any]], what: str) -> dict[str, Any]:
        """Answers of all nodes; an error as soon as one of them fails."""
        tasks = {node: asyncio.ensure_future(call) for node, call in calls.items()}
        done, _ = await asyncio.wait(tasks.values(), timeout=self._deadline_s, return_when=asyncio.FIRST_EXCEPTION)
        if len(done) == len(tasks) and not any(task.exception() for task in done):
            return {node: task.result() for node, task in tasks.items()}
        lost = await self._without_a_sign_of_life(list(calls))
        words = []
        for node, task in tasks.items():
            if task.done() and (error := task.exception()):
                cause = cause_of(error)
                words.append(f"the courier of node {node} could not {what}: {type(cause).__name__}: {cause}")
            elif node in lost:
                words.append(f"the courier of node {node} gives no sign of life")
            task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())  # nobody waits for it any more
        cause_words = "; ".join(words) or f"couriers did not {what} within {self._deadline_s:g} s ({SETTING})"
        raise BrokenGroupError(cause_words, lost)

    async def _without_a_sign_of_life(self, nodes: list[str]) -> list[str]:
        deadline_s = min(SIGN_OF_LIFE_S, self._deadline_s)
        asked = [wait_for(self._couriers[node].process_id.remote(), node, deadline_s) for node in nodes]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        return [node for node, answer in zip(nodes, answers, strict=True) if isinstance(answer, BaseException)]

    async def _dissolve(self, lost: Sequence[str]) -> None:
        """End those that are lost; all others leave the group, whose connections are closed."""
        self._members = []
        for node in lost:
            self._copies.pop(node, None)
            if (courier := self._couriers.pop(node, None)) is not None:
                with suppress(Exception):  # it may be dead already
                    kill(courier)
        leaving = [wait_for(each.leave.remote(), "a courier", self._deadline_s) for each in self._couriers.values()]
        await asyncio.gather(*leaving, return_exceptions=True)


def start_courier(node: str) -> Any:
    """Handle of a courier on that node of the Ray cluster; it asks for no resources."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    from raylign.rollout.weights.courier import Courier

    hosts = {each["NodeID"]: each["NodeManagerAddress"] for each in ray.nodes()}
    environment = {"OMP_NUM_THREADS": "1", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
    courier: Any = ray.remote(Courier)
    return courier.options(
        num_cpus=0,
        max_concurrency=16,
        scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False),
        runtime_env={"env_vars": environment},
    ).remote(hosts[node])
