"""Weights on their way to other nodes, whatever happens there: real couriers over gloo, nodes that are only names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from raylign.actors.elastic_fleet import ElasticFleet
from raylign.actors.fleet import EngineState, Fleet
from raylign.actors.handles import LocalHandle
from raylign.actors.weights.config import WeightsConfig
from raylign.actors.weights.node_copies import NodeCopies
from raylign.actors.weights.publisher import WeightPublisher
from raylign.actors.weights.update import ExportedWeights, Phase, WeightUpdateError
from raylign.jobs.run.weight_delivery import WeightDelivery
from raylign.rollout.weights import group
from raylign.rollout.weights.buckets import SharedMemorySender, read_bucket
from raylign.rollout.weights.courier import Courier
from tests.actors.weights.fake_sides import ALearner, Recorded, a_model, flip_a_bit, run

HOME = "learner's node"


class OnNode(Recorded):
    """An engine that says where it runs."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    async def node(self) -> str:
        return self.name


class Nodes:
    """Starts couriers in this process, and notes whom."""

    def __init__(self, folder: Path, backend: group.Backend = "gloo", deadline_s: float = 20.0) -> None:
        self.started: list[str] = []
        self.handles: dict[str, LocalHandle] = {}
        self.couriers: dict[str, Courier] = {}
        self.folder = folder
        self.copies = NodeCopies(backend, HOME, self.start, deadline_s)

    def start(self, node: str) -> LocalHandle:
        self.started.append(node)
        self.couriers[node] = Courier("127.0.0.1", self.folder)
        self.handles[node] = LocalHandle(self.couriers[node])
        return self.handles[node]


async def a_fleet(*nodes: str) -> tuple[Fleet, list[OnNode]]:
    engines = [OnNode(node) for node in nodes]
    for engine in engines:
        await engine.start()
    return Fleet([LocalHandle(engine) for engine in engines]), engines


def test_engines_of_all_nodes_hold_what_the_learner_wrote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group, "PIECE_BYTES", 300)  # several pieces in a bucket, as a large one has

    async def test() -> None:
        fleet, engines = await a_fleet(HOME, "b", "c", "c")
        learner, nodes = ALearner(a_model(1), tmp_path), Nodes(tmp_path)
        publisher = WeightPublisher(fleet, learner, WeightsConfig(), copies=nodes.copies)
        for version in (1, 2):
            learner.weights = a_model(version)
            await publisher.publish(version)
            for engine in engines:
                assert engine.version == version
                assert all(torch.equal(engine.weights[name], value) for name, value in learner.weights.items())
        assert sorted(nodes.started) == ["b", "c", HOME]  # one for each node, and all stay from version to version
        alone, (engine,) = await a_fleet(HOME)
        await WeightPublisher(alone, learner, WeightsConfig()).publish(1)
        assert await engine.weight_checksum() == publisher.digest
        await publisher.close()
        assert list(tmp_path.iterdir()) == []

    run(test())


class FastLearner(ALearner):
    """Steps are quicker than engines pause: the next update has begun before the first byte of the last is sent."""

    def __init__(self, folder: Path) -> None:
        super().__init__({"weight": torch.zeros(100)}, folder)

    def update(self) -> None:
        self.weights["weight"] += 1


@pytest.mark.parametrize("far", [False, True])
def test_a_label_is_that_of_the_weights_however_fast_the_learner_goes_on(tmp_path: Path, far: bool) -> None:
    async def test() -> None:
        fleet, engines = await a_fleet(HOME, "b" if far else HOME)
        learner = FastLearner(tmp_path)
        copies = Nodes(tmp_path).copies if far else None
        publisher = WeightPublisher(fleet, learner, WeightsConfig(), copies=copies)
        delivery = WeightDelivery(publisher, lambda error: None)
        for version in range(1, 21):
            await publisher.before_learning()
            learner.update()
            exported = await delivery.export(version)
            for engine in engines:
                assert version == 1 or engine.weights["weight"].eq(engine.version).all()
                assert engine.version == version - 1
            delivery.send(exported)
        await delivery.arrived()
        assert [engine.version for engine in engines] == [20, 20]
        assert all(engine.weights["weight"].eq(20).all() for engine in engines)
        await publisher.close()

    run(test())


def test_a_courier_that_died_is_replaced_and_the_version_arrives_at_the_first_attempt(tmp_path: Path) -> None:
    async def test() -> None:
        fleet, engines = await a_fleet(HOME, "b", "c")
        learner, nodes = ALearner(a_model(1), tmp_path), Nodes(tmp_path)
        publisher = WeightPublisher(fleet, learner, WeightsConfig(), copies=nodes.copies)
        await publisher.publish(1)
        for version, killed in ((2, "b"), (3, HOME)):
            nodes.handles[killed].is_killed = True
            await publisher.publish(version)
            assert nodes.started.count(killed) == 2
            assert [engine.version for engine in engines] == [version] * 3
            assert publisher.last is not None
            assert publisher.last.num_attempts == 1
        assert nodes.started.count("c") == 1
        await publisher.close()

    run(test())


def test_a_node_that_all_engines_have_left_is_given_up(tmp_path: Path) -> None:
    async def test() -> None:
        engines = [OnNode(HOME), OnNode("b"), OnNode("c")]
        for engine in engines:
            await engine.start()
        fleet, nodes = ElasticFleet([LocalHandle(engine) for engine in engines]), Nodes(tmp_path)
        publisher = WeightPublisher(fleet, ALearner(a_model(1), tmp_path), WeightsConfig(), copies=nodes.copies)
        await publisher.publish(1)
        fleet.resize(2)
        await fleet.settled()
        assert not nodes.handles["c"].is_killed
        await publisher.publish(2)
        assert [handle.is_killed for handle in nodes.handles.values()] == [node == "c" for node in nodes.handles]
        await publisher.publish(3)
        assert [engine.version for engine in engines] == [3, 3, 1]
        assert sorted(nodes.started) == ["b", "c", HOME]
        await publisher.close()
        assert list(tmp_path.iterdir()) == []

    run(test())


def test_a_damaged_copy_is_sent_again_and_an_engine_that_comes_later_finds_the_copy(tmp_path: Path) -> None:
    async def test() -> None:
        fleet, engines = await a_fleet(HOME, "b")
        learner, nodes = ALearner(a_model(1), tmp_path), Nodes(tmp_path)
        publisher = WeightPublisher(fleet, learner, WeightsConfig(), copies=nodes.copies)
        sent = spoil_once(nodes)
        await publisher.publish(1)
        assert [engine.version for engine in engines] == [1, 1]
        assert publisher.last is not None
        assert publisher.last.num_attempts == 2
        num_sent = len(sent)
        fleet.engines[1].state = EngineState.STALE
        await publisher.catch_up()
        assert fleet.engines[1].state is EngineState.CURRENT
        assert len(sent) == num_sent
        await publisher.close()

    run(test())


def spoil_once(nodes: Nodes) -> list[Any]:
    """The first buckets that `b` receives have a bit flipped; gives all that it is sent."""
    sent: list[Any] = []
    start = nodes.start

    def start_spoiling(node: str) -> LocalHandle:
        handle = start(node)
        courier = nodes.couriers[node]
        receive: Callable[[Any], Any] = courier.receive

        async def spoilt(buckets: Any) -> Any:
            copies = await receive(buckets)
            if not sent:
                flip_a_bit(copies[0])
            sent.append(buckets)
            return copies

        courier.receive = spoilt  # type: ignore[method-assign]
        return handle

    nodes.copies._start_courier = start_spoiling
    return sent


def test_a_node_that_nobody_reaches_fails_its_engines_and_no_others(tmp_path: Path) -> None:
    async def test() -> None:
        fleet, _ = await a_fleet(HOME, "b")
        nodes = Nodes(tmp_path)
        start = nodes.start

        def start_dead(node: str) -> LocalHandle:
            handle = start(node)
            handle.is_killed = node == "b"
            return handle

        nodes.copies._start_courier = start_dead
        publisher = WeightPublisher(fleet, ALearner(a_model(1), tmp_path), WeightsConfig(), copies=nodes.copies)
        with pytest.raises(WeightUpdateError, match="engine 1 in travel: its node b did not get the weights") as raised:
            await publisher.publish(1)
        assert raised.value.phase is Phase.TRAVEL
        assert fleet.engines[0].state is EngineState.CURRENT
        await publisher.close()

    run(test())


def test_preflight_says_between_which_nodes_nothing_travels(tmp_path: Path) -> None:
    async def test() -> None:
        good, bad = Nodes(tmp_path), Nodes(tmp_path, "nccl", deadline_s=5)
        await good.copies.preflight([HOME, "b"])
        assert sorted(good.started) == ["b", HOME]
        await good.copies.preflight([HOME])
        with pytest.raises(RuntimeError, match=f"by nccl from node {HOME} to b: .*weights.transport"):
            await bad.copies.preflight(["b"])
        for nodes in (good, bad):
            await nodes.copies.close()

    run(test())


def test_an_adapter_arrives_as_an_adapter_in_buckets_of_the_configured_size(tmp_path: Path) -> None:
    async def test() -> None:
        fleet, _ = await a_fleet("b")
        nodes = Nodes(tmp_path)
        weights = {f"lora_A.{index}": torch.full((16,), float(index)) for index in range(8)}
        sender = SharedMemorySender(128, tmp_path)  # the folder lasts as long as it
        buckets = sender.export(3, weights.items(), {"peft_type": "LORA", "r": 4})
        here, errors = await nodes.copies.bring(ExportedWeights(3, tuple(buckets), 0.0), fleet.engines)
        assert not errors
        (copied,) = here.values()
        assert len(copied.buckets) == len(buckets) == 4
        assert {bucket.path for bucket in copied.buckets}.isdisjoint(bucket.path for bucket in buckets)
        assert all(bucket.adapter == {"peft_type": "LORA", "r": 4} and bucket.version == 3 for bucket in copied.buckets)
        found = dict(pair for bucket in copied.buckets for pair in read_bucket(bucket))
        assert all(torch.equal(found[name], tensor) for name, tensor in weights.items())
        await nodes.copies.close()

    run(test())
