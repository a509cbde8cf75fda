"""Buckets in shared memory: nothing lost, damage seen, nothing left behind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from raylign.rollout.weights.buckets import (
    BucketError,
    BucketMaps,
    SharedMemorySender,
    check_buckets,
    read_bucket,
    remove_orphans,
)
from tests.patience import HANGS_S


def some_weights() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "large": torch.randn(100, 33, generator=generator),
        "half": torch.randn(7, 3, generator=generator).to(torch.bfloat16),
        "scalar": torch.tensor(3.5),
        "strided": torch.randn(20, 10, generator=generator).T,
        "empty": torch.zeros(0, 4),
        "counts": torch.arange(9),
    }


@pytest.mark.parametrize("bucket_bytes", [64, 1000, 1 << 20])
def test_weights_come_back_bit_for_bit_whatever_the_bucket_size(tmp_path: Path, bucket_bytes: int) -> None:
    sender = SharedMemorySender(bucket_bytes, tmp_path)
    weights = some_weights()
    buckets = sender.export(3, weights.items())
    found = {name: tensor for bucket in buckets for name, tensor in read_bucket(bucket)}
    assert list(found) == list(weights)
    for name, tensor in weights.items():
        assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor)
    assert [bucket.index for bucket in buckets] == list(range(len(buckets)))
    assert all(bucket.num_buckets == len(buckets) and bucket.version == 3 for bucket in buckets)
    assert len(buckets) == {64: 6, 1000: 3, 1 << 20: 1}[bucket_bytes]
    sender.release()
    assert not list(tmp_path.iterdir())
    assert torch.equal(found["large"], weights["large"])  # a reader keeps its mapping


def test_a_damaged_a_cut_and_a_missing_bucket_are_refused(tmp_path: Path) -> None:
    sender = SharedMemorySender(1 << 20, tmp_path)
    (bucket,) = sender.export(1, some_weights().items())
    path = Path(bucket.path)
    content = path.read_bytes()
    path.write_bytes(content[:5000] + bytes([content[5000] ^ 1]) + content[5001:])
    with pytest.raises(BucketError, match=r"bucket 1 of 1 of version 1 .* damaged"):
        check_buckets([bucket])
    path.write_bytes(content[: bucket.num_bytes - 1])
    with pytest.raises(BucketError, match="bytes instead of"):
        list(read_bucket(bucket))
    sender.release()
    with pytest.raises(BucketError, match="share a node's memory"):
        list(read_bucket(bucket))


def test_the_next_version_is_written_to_the_same_memory_and_buckets_too_many_go(tmp_path: Path) -> None:
    sender = SharedMemorySender(1000, tmp_path)
    first = sender.export(1, [("a", torch.ones(200)), ("b", torch.ones(200)), ("c", torch.ones(400))])
    second = sender.export(2, [("a", torch.full((200,), 2.0)), ("b", torch.full((40,), 3.0))])
    assert len(first) == 3 and len(second) == 1 and second[0].path == first[0].path
    check_buckets([second[0]])
    with pytest.raises(BucketError, match=r"bucket 1 of 3 of version 1 .* damaged"):
        check_buckets([first[0]])  # an engine that comes too late for version 1 notices
    found = dict(read_bucket(second[0]))
    assert torch.equal(found["a"], torch.full((200,), 2.0)) and torch.equal(found["b"], torch.full((40,), 3.0))
    assert [str(path) for path in tmp_path.iterdir()] == [first[0].path]
    large = sender.export(3, [("a", torch.ones(5000))])  # more than the file held
    check_buckets([large[0]])


def test_a_mapping_lasts_from_version_to_version_and_shows_the_newest(tmp_path: Path) -> None:
    sender, maps = SharedMemorySender(1000, tmp_path), BucketMaps()
    infos = []
    for version in (1, 2):
        (bucket,) = sender.export(version, [("a", torch.full((200,), float(version)))])
        infos.append(bucket)
        assert dict(read_bucket(infos[-1], maps.of(infos[-1])))["a"].tolist() == [version] * 200
    assert maps.of(infos[0]) is maps.of(infos[1])
    (large,) = sender.export(3, [("a", torch.full((500,), 3.0))])  # the file has grown
    found = dict(read_bucket(large, maps.of(large)))["a"]
    assert found.tolist() == [3.0] * 500
    found += 1  # a loader that changes what it is given is found out by whoever reads next
    with pytest.raises(BucketError, match="damaged"):
        check_buckets([large])
    maps.keep_only(set())
    sender.release()
    with pytest.raises(BucketError, match="is not there"):
        maps.of(large)


def test_an_export_that_breaks_leaves_nothing(tmp_path: Path) -> None:
    def broken():
        yield "first", torch.ones(1000)
        raise RuntimeError("out of memory")

    sender = SharedMemorySender(1000, tmp_path)
    with pytest.raises(RuntimeError, match="out of memory"):
        sender.export(1, broken())
    assert not list(tmp_path.iterdir())


KILLED_SENDER = """
import os, sys, torch
from pathlib import Path
from raylign.rollout.weights.buckets import SharedMemorySender
sender = SharedMemorySender(1000, Path(sys.argv[1]))
sender.export(1, [("a", torch.ones(10)), ("b", torch.ones(1000))])
os._exit(9)
"""


def test_what_a_killed_sender_left_is_removed_and_what_a_living_one_holds_is_not(tmp_path: Path) -> None:
    living = SharedMemorySender(1000, tmp_path)
    (held,) = living.export(1, [("a", torch.ones(10))])
    subprocess.run([sys.executable, "-c", KILLED_SENDER, str(tmp_path)], check=False, timeout=HANGS_S)
    assert len(list(tmp_path.iterdir())) == 3
    remove_orphans(tmp_path)
    assert [str(path) for path in tmp_path.iterdir()] == [held.path]
    living.release()
