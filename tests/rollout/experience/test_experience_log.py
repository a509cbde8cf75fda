"""The experience log in one process: what is served when, what a restart at a position undoes, what is refused."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from raylign.rollout.experience.draws import draw_prioritised
from raylign.rollout.experience.log import ExperienceLog
from raylign.rollout.experience.replay import ReplayLog
from raylign.rollout.experience.schema import batch_to_message, groups_to_batch
from raylign.rollout.experience.types import (
    START,
    ExperienceConfig,
    ExperienceError,
    Lease,
    LeaseExpiredError,
    LogPosition,
    ReplayEndedError,
)
from raylign.rollout.sample import Completion, Failure, Group, Prompt, VersionSpan

FIFO = ExperienceConfig()
PRIORITISED = ExperienceConfig(sampling="prioritised", priority_exponent=1.0, importance_exponent=1.0)


def group(ordinal: int, spread: float = 0.5, num_tokens: int = 3) -> Group:
    """Two completions whose total rewards lie 2 spreads apart."""
    token_ids = np.full(num_tokens, ordinal, np.int32)
    completion = Completion(token_ids, np.zeros(num_tokens, np.float32), (VersionSpan(0, 0, num_tokens),), "stop", "a")
    totals = np.array([-spread, spread], np.float32)
    return Group(Prompt(str(ordinal), ordinal, "2 + 3", token_ids), (completion, completion), {}, totals)


def failed(ordinal: int) -> Group:
    return Group(Prompt(str(ordinal), ordinal, "", np.zeros(0, np.int32)), (), failures=(Failure("engine", "e", "-9"),))


def append(log: ExperienceLog, ordinals: Sequence[int]) -> range:
    return log.append(groups_to_batch([group(ordinal) for ordinal in ordinals])).offsets


def ordinals_of(lease: Lease | None) -> list[int]:
    assert lease is not None
    groups = lease.rows.groups()
    assert all((one.prompt.token_ids == one.prompt.ordinal).all() for one in groups)  # the arrays, not only the keys
    return [one.prompt.ordinal for one in groups]


def train(log: ExperienceLog, count: int, step: int) -> list[int]:
    lease = log.lease(count, 60, step)
    ordinals = ordinals_of(lease)
    assert lease is not None
    log.settle(lease.lease_id, step)
    return ordinals


def has_room(log: ExperienceLog) -> bool:
    return log.has_room


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_groups_are_served_in_log_order_and_only_when_enough_wait(tmp_path: Path) -> None:
    with ExperienceLog.open(tmp_path, FIFO) as log:
        assert append(log, [3, 1]) == range(0, 2)
        assert log.lease(3, 60) is None
        assert append(log, [2, 0]) == range(2, 4)
        assert ordinals_of(log.lease(3, 60)) == [3, 1, 2]
        assert log.lease(2, 60) is None
        assert ordinals_of(log.lease(1, 60)) == [0]
        assert (log.counters.leased_groups, log.counters.unread_groups, log.counters.unread_bytes) == (4, 0, 0)


def test_a_serialised_batch_is_logged_as_it_is(tmp_path: Path) -> None:
    with ExperienceLog.open(tmp_path, FIFO) as log:
        append(log, [0])
        log.append(batch_to_message(groups_to_batch([group(1), group(2)])))
        lease = log.lease(3, 60)
        assert lease is not None and lease.rows.batch().column("offset").to_pylist() == [0, 1, 2]
        assert ordinals_of(lease) == [0, 1, 2]


def test_an_expired_lease_gives_its_groups_back_in_their_old_places(tmp_path: Path) -> None:
    clock = Clock()
    with ExperienceLog.open(tmp_path, FIFO, clock=clock) as log:
        append(log, range(6))
        first, second = log.lease(2, 10), log.lease(2, 20)
        assert first is not None and second is not None
        assert log.expire() == 10
        clock.now = 10.0
        assert log.expire() == 10
        with pytest.raises(LeaseExpiredError, match=f"no lease {first.lease_id}: it expired"):
            log.settle(first.lease_id, 0)
        assert ordinals_of(log.lease(4, 10)) == [0, 1, 4, 5]
        log.settle(second.lease_id, 0)
        assert log.ledger.state(2) == log.ledger.state(3) == "trained"


def test_what_is_filtered_or_dropped_is_not_settled(tmp_path: Path) -> None:
    with ExperienceLog.open(tmp_path, FIFO) as log:
        log.append(groups_to_batch([group(0), group(1), failed(2), group(3), group(4)]))
        lease = log.lease(4, 60, step=0)
        assert lease is not None and lease.offsets == (0, 1, 3, 4)  # what failed is never handed out
        log.mark_filtered([1], step=0)
        assert log.mark_dropped([3], "too old", step=0) == [3]
        log.settle(lease.lease_id, 0)
        states = [log.ledger.state(ordinal) for ordinal in range(6)]
        assert states == ["trained", "filtered", "failed", "dropped", "trained", "unknown"]
        counters = log.counters
        assert (counters.num_logged, counters.num_trained, counters.num_filtered) == (5, 2, 1)
        assert (counters.num_dropped, counters.num_failed, counters.unread_groups) == (1, 1, 0)
        assert log.ledger.missing_ordinals() == [3]
        append(log, [3, 6])  # 5 is still in flight
        assert log.ledger.missing_ordinals() == [5]
        assert [log.ledger.state(ordinal) for ordinal in (3, 5, 6)] == ["waiting", "unknown", "waiting"]
        with pytest.raises(ExperienceError, match="offset 1 cannot be dropped in step 1: it is filtered"):
            log.mark_dropped([1], "again", step=1)


def test_a_late_duplicate_is_refused_and_counted(tmp_path: Path) -> None:
    with ExperienceLog.open(tmp_path, FIFO) as log:
        append(log, range(4))
        assert train(log, 2, 0) == [0, 1]
        log.lease(1, 60)
        appended = log.append(groups_to_batch([group(n) for n in (0, 2, 3, 9, 9, 4)]))
        assert appended.refused == (0, 2, 3, 9) and appended.offsets == range(4, 6)
        assert log.append(groups_to_batch([group(1)])).offsets == range(0)
        assert log.counters.num_refused == 5
        assert ordinals_of(log.lease(3, 60)) == [3, 9, 4]


def test_a_restart_serves_exactly_what_came_after_the_position(tmp_path: Path) -> None:
    with ExperienceLog.open(tmp_path, FIFO) as log:
        append(log, range(20))
        assert train(log, 4, 0) == [0, 1, 2, 3]
        lease = log.lease(4, 60, step=1)
        assert lease is not None
        log.mark_filtered([4], step=1)
        log.settle(lease.lease_id, 1)
        ahead = log.lease(4, 60, step=2)  # the loop is ahead of the checkpoint
        assert ahead is not None
        log.mark_filtered([9], step=2)
        position = log.position(step=1)
        assert position == LogPosition(step=1, low_water=8)
        log.commit(position)
        log.settle(ahead.lease_id, 2)
        after = train(log, 4, 3)
    assert LogPosition.from_json(json.loads(json.dumps(position.to_json()))) == position
    with ExperienceLog.open(tmp_path, FIFO, position) as log:
        assert log.counters.num_trained == 7 and log.counters.num_filtered == 1
        again = log.lease(4, 60, step=2)
        assert ordinals_of(again) == [8, 9, 10, 11]
        log.mark_filtered([9], step=2)
        assert again is not None
        log.settle(again.lease_id, 2)
        assert train(log, 4, 3) == after == [12, 13, 14, 15]


def test_opening_without_a_position_keeps_decisions_and_ends_leases(tmp_path: Path) -> None:
    with ExperienceLog.open(tmp_path, FIFO) as log:
        append(log, range(4))
        train(log, 1, 0)
        old = log.lease(2, 60, 1)
    with ExperienceLog.open(tmp_path, FIFO) as log:
        assert old is not None
        with pytest.raises(LeaseExpiredError):
            log.settle(old.lease_id, 1)
        assert train(log, 3, 1) == [1, 2, 3]


def test_a_duplicate_of_an_undone_drop_waits_behind_it_and_takes_its_place(tmp_path: Path) -> None:
    with ExperienceLog.open(tmp_path, FIFO) as log:
        append(log, range(4))
        train(log, 1, 0)
        position = log.position(0)
        lease = log.lease(2, 60, 1)
        assert lease is not None and log.mark_dropped([1], "too old", step=1) == [1]
        log.settle(lease.lease_id, 1)
        assert append(log, [1]) == range(4, 5)
    for drops_again in (True, False):
        with ExperienceLog.open(tmp_path, FIFO, position) as log:
            assert log.counters.unread_groups == 3  # ordinals 1, 2, 3; the duplicate of 1 at offset 4 is not seen
            assert log.ledger.missing_ordinals() == []
            lease = log.lease(2, 60, 1)
            assert ordinals_of(lease) == [1, 2] and lease is not None
            if drops_again:
                assert log.mark_dropped([1], "too old", step=1) == []  # the duplicate is there already
            log.settle(lease.lease_id, 1)
            rest = log.lease(2 if drops_again else 1, 60, 2)
            assert rest is not None and rest.offsets == ((3, 4) if drops_again else (3,))
            log.settle(rest.lease_id, 2)
            assert log.lease(1, 60) is None
            assert log.position(2).low_water == 5
            assert log.counters.num_trained == 4


def test_positions_below_the_start_and_holes_are_kept(tmp_path: Path) -> None:
    with ExperienceLog.open(tmp_path, FIFO) as log:
        append(log, range(6))
        held = log.lease(2, 60, 1)
        train(log, 2, 0)
        assert held is not None
        position = log.position(0)
        assert position == LogPosition(0, 0, (2, 3))
    with ExperienceLog.open(tmp_path, FIFO, position) as log:
        assert ordinals_of(log.lease(4, 60, 1)) == [0, 1, 4, 5]
    with ExperienceLog.open(tmp_path, FIFO, START) as log:
        assert ordinals_of(log.lease(6, 60)) == [0, 1, 2, 3, 4, 5]


def test_has_room_until_the_byte_budget_waits_but_never_blocks_a_hungry_lease(tmp_path: Path) -> None:
    num_bytes = groups_to_batch([group(0)]).serialize().size
    budget = ExperienceConfig(max_unread_mib=2.5 * num_bytes / 2**20)
    with ExperienceLog.open(tmp_path, budget) as log:
        for ordinal in range(3):
            assert has_room(log)
            append(log, [ordinal])
        assert not has_room(log)
        assert log.lease(4, 60) is None
        assert has_room(log)  # the budget is below a step: it goes on until the step is full
        append(log, [3])
        assert not has_room(log)
        assert ordinals_of(log.lease(4, 60)) == [0, 1, 2, 3]
        assert has_room(log)


def test_a_group_larger_than_the_budget_is_an_error_that_names_the_key(tmp_path: Path) -> None:
    with ExperienceLog.open(tmp_path, ExperienceConfig(max_unread_mib=0.01)) as log:
        append(log, range(8))  # together larger, each smaller
        with pytest.raises(ValueError, match=r"prompt 9 takes 0\.0 MiB, more than experience\.max_unread_mib = 0\.01"):
            log.append(groups_to_batch([group(8), group(9, num_tokens=2000)]))
        assert log.counters.num_logged == 8


def test_segments_roll_and_leases_reach_over_them(tmp_path: Path) -> None:
    with ExperienceLog.open(tmp_path, ExperienceConfig(segment_mib=0.01)) as log:
        for start in range(0, 30, 3):
            append(log, range(start, start + 3))
        assert len(list(tmp_path.glob("*.arrows"))) > 3
        assert train(log, 20, 0) == list(range(20))
        position = log.position(0)
    with ExperienceLog.open(tmp_path, ExperienceConfig(segment_mib=0.01), position) as log:
        append(log, [30])
        assert train(log, 11, 1) == list(range(20, 31))


def test_a_second_owner_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raylign.rollout.experience.log.LOCK_DEADLINE_S", 0.1)
    with ExperienceLog.open(tmp_path, FIFO), pytest.raises(ExperienceError, match="another process has had"):
        ExperienceLog.open(tmp_path, FIFO)


def test_rows_done_with_are_forgotten_and_their_duplicates_still_refused(tmp_path: Path) -> None:
    with ExperienceLog.open(tmp_path, FIFO) as log:
        for step in range(200):
            append(log, range(step * 4, step * 4 + 4))
            lease = log.lease(4, 60, step)
            assert lease is not None
            log.mark_filtered(lease.offsets[:1], step)
            log.settle(lease.lease_id, step)
        assert len(log.ledger._rows) <= 4 * 9 and len(log.ledger._done) == 0 and len(log._records._firsts) <= 10
        assert log.append(groups_to_batch([group(5)])).refused == (5,)
        assert log.position(199) == LogPosition(199, 800)
        with pytest.raises(ExperienceError, match="known for 8 steps only"):
            log.position(100)
        assert log.counters.num_trained == 600
    with ExperienceLog.open(tmp_path, FIFO, LogPosition(100, 404)) as log:
        assert log.counters.num_trained == 303 and ordinals_of(log.lease(2, 60)) == [404, 405]


def test_prioritised_draws_follow_the_spread_and_weights_undo_it() -> None:
    waiting, spreads = np.array([10, 11, 12]), np.array([0.099, 0.299, 0.599])  # plus 0.001: 1 : 3 : 6
    counts = dict.fromkeys(waiting.tolist(), 0)
    for seed in range(4000):
        (drawn,), weights = draw_prioritised(waiting, spreads, 1, PRIORITISED, (seed,))
        counts[drawn] += 1
        assert weights.tolist() == [1.0]
    np.testing.assert_allclose([counts[offset] / 4000 for offset in (10, 11, 12)], [0.1, 0.3, 0.6], atol=0.025)
    drawn_all, weights = draw_prioritised(waiting, spreads, 3, PRIORITISED, (0,))
    expected = {10: 1.0, 11: 1 / 3, 12: 1 / 6}  # (N P)^-1 over the largest, which is that of the rarest
    np.testing.assert_allclose(weights, [expected[offset] for offset in drawn_all], rtol=1e-6)
    half = PRIORITISED.model_copy(update={"importance_exponent": 0.5, "priority_exponent": 0.0})
    np.testing.assert_allclose(draw_prioritised(waiting, spreads, 3, half, (0,))[1], 1.0)


def test_prioritised_draws_are_the_same_after_a_restart_though_more_groups_wait(tmp_path: Path) -> None:
    def some(log: ExperienceLog, ordinals: range) -> None:
        log.append(groups_to_batch([group(n, spread=0.1 * (n % 5)) for n in ordinals]))

    with ExperienceLog.open(tmp_path, PRIORITISED, seed=3) as log:
        some(log, range(30))
        train(log, 4, 0)
        position = log.position(0)
        assert len(position.consumed) > 0
        first, second = log.lease(4, 60, 1), log.lease(2, 60, 1)
        assert first is not None and second is not None
        log.settle(first.lease_id, 1)
        log.release(second.lease_id)
        third = log.lease(3, 60, 1)
        some(log, range(30, 60))
        assert third is not None
        log.settle(third.lease_id, 1)
    with ExperienceLog.open(tmp_path, PRIORITISED, position, seed=3) as log:
        for before, count in ((first, 4), (third, 3)):
            again = log.lease(count, 60, 1)
            assert again is not None and again.offsets == before.offsets
            np.testing.assert_array_equal(again.weights, before.weights)
            log.settle(again.lease_id, 1)
        assert len(set(train(log, 49, 2))) == 49  # 60 - 4 - 7 wait; nothing comes twice


def test_a_run_is_replayed_as_it_ended_up(tmp_path: Path) -> None:
    folder = tmp_path / "experience"
    with ExperienceLog.open(folder, PRIORITISED) as log:
        append(log, range(12))
        trained = {0: train(log, 3, 0)}
        position = log.position(0)
        train(log, 3, 1)  # done again below, with other groups
    with ExperienceLog.open(folder, PRIORITISED, position) as log:
        lease = log.lease(4, 60, 1)
        assert lease is not None
        log.mark_filtered(lease.offsets[:1], 1)
        log.mark_dropped(lease.offsets[1:2], "too old", 1)
        log.settle(lease.lease_id, 1)
        trained[1] = ordinals_of(lease)[2:]
        weights = lease.weights[2:]
        replay = ReplayLog.open(tmp_path)  # of a running run too
    assert replay.steps == [0, 1]
    for step, ordinals in trained.items():
        assert ordinals_of(replay.lease(step)) == ordinals
    np.testing.assert_array_equal(replay.lease(1).weights, weights)
    assert replay.recorded(1).filtered == [lease.offsets[0]] and replay.recorded(1).dropped == [lease.offsets[1]]
    with pytest.raises(ReplayEndedError, match="holds steps 0 to 1, so step 2 cannot be replayed"):
        replay.lease(2)
    with pytest.raises(ValueError, match="no recorded run"):
        ReplayLog.open(folder)


def test_importance_weights_are_in_the_journal_for_a_restart_and_for_a_replay(tmp_path: Path) -> None:
    folder = tmp_path / "experience"
    expected = {0: 1.0, 1: 1 / 3, 2: 1 / 6}  # spreads 1 : 3 : 6, as above
    with ExperienceLog.open(folder, PRIORITISED) as log:
        log.append(groups_to_batch([group(n, spread) for n, spread in enumerate((0.099, 0.299, 0.599))]))
        first = log.lease(3, 60, 0)
        assert first is not None
        np.testing.assert_allclose(first.weights, [expected[offset] for offset in first.offsets], rtol=1e-5)
        log.settle(first.lease_id, 0)
    with ExperienceLog.open(folder, PRIORITISED, START) as log:  # step 0 is done again
        again = log.lease(3, 60, 0)
        assert again is not None and again.offsets == first.offsets
        np.testing.assert_array_equal(again.weights, first.weights)
        log.mark_filtered(again.offsets[1:2], 0)
        log.settle(again.lease_id, 0)
    replayed = ReplayLog.open(tmp_path).lease(0)
    assert replayed.offsets == (first.offsets[0], first.offsets[2])
    np.testing.assert_array_equal(replayed.weights, first.weights[[0, 2]])
    assert len(set(replayed.weights.tolist())) == 2


@pytest.mark.parametrize("seed", range(25))
@pytest.mark.parametrize("config", [FIFO, PRIORITISED], ids=["fifo", "prioritised"])
def test_any_history_of_restarts_trains_every_ordinal_once(tmp_path: Path, config: ExperienceConfig, seed: int) -> None:
    """A loop that filters and drops by rule, killed and resumed at random, against what any run must satisfy."""
    dice = random.Random(seed)
    config = config.model_copy(update={"segment_mib": dice.choice([0.01, 1.0])})
    clock = Clock()
    served: dict[int, list[list[int]]] = {}
    position, step, target = START, 0, 40
    log = ExperienceLog.open(tmp_path / "experience", config, position, seed, clock=clock)
    while step < 12:
        if dice.random() < 0.2:  # everything is killed: what was not committed is done again
            log.close()
            log = ExperienceLog.open(tmp_path / "experience", config, position, seed, clock=clock)
            step = position.step + 1
        to_issue = [*log.ledger.missing_ordinals(), *range(log.counters.next_ordinal, target)]
        to_issue = [ordinal for ordinal in to_issue if ordinal < target]
        dice.shuffle(to_issue)
        appended = to_issue[: dice.randrange(1, 9)]
        log.append(groups_to_batch([group(n, spread=n % 7) if n % 11 else failed(n) for n in appended] or [failed(0)]))
        if config.sampling == "fifo" and dice.random() < 0.2 and log.lease(1, 1, step) is not None:
            clock.now += 2
            log.expire()
        lease = log.lease(3, 60, step)
        if lease is None:
            continue
        ordinals = ordinals_of(lease)
        served.setdefault(step, []).append(ordinals)
        old = [offset for offset, n in zip(lease.offsets, ordinals, strict=True) if (n + step) % 5 == 0]
        log.mark_dropped(old, "too old", step)
        useless = [o for o, n in zip(lease.offsets, ordinals, strict=True) if n % 7 == 0 and o not in old]
        log.mark_filtered(useless, step)
        log.settle(lease.lease_id, step)
        if dice.random() < 0.5:
            position = log.position(step)
            log.commit(position)
        step += 1
        target += 3
    num_trained = log.counters.num_trained
    log.close()
    for done in served.values():  # what a step got never changed, whatever was killed in between
        assert all(ordinals == done[0] for ordinals in done)
    replay = ReplayLog.open(tmp_path)
    trained = [ordinal for step in replay.steps for ordinal in ordinals_of(replay.lease(step))]
    assert len(trained) == len(set(trained)) == num_trained
    segments = sorted((tmp_path / "experience").glob("*.arrows"))
    table = pa.concat_tables(pa.ipc.open_stream(path).read_all() for path in segments)
    assert table.column("offset").to_pylist() == list(range(table.num_rows))
