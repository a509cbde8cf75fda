"""A checkpoint is complete or not there, whatever happens in between."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from raylign.jobs.run.checkpoints import CheckpointRecord, CheckpointStore, DiskFullError
from tests.patience import wait_until


def record(step: int) -> CheckpointRecord:
    return CheckpointRecord(step, 7, "3f2a", {"raylign": "0.1.0"}, 12.5)


def write(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "state").mkdir()
    (folder / "state" / "rank-0.pt").write_bytes(b"optimizer")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_saved_checkpoint_is_found_with_its_place_in_the_run(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "checkpoints")
    assert store.latest() is None
    saved = store.save(record(10), write)
    assert saved.path == tmp_path / "checkpoints" / "step-000010"
    assert store.latest() == saved
    assert (saved.path / "model.safetensors").read_bytes() == b"weights"
    assert (saved.state_path / "rank-0.pt").read_bytes() == b"optimizer"


def test_a_checkpoint_of_an_older_version_is_found_though_its_record_has_more_keys(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    saved = store.save(record(10), write)
    complete = saved.path / "complete.json"
    kept = json.loads(complete.read_text())
    complete.write_text(json.dumps({**kept, "prompt_ordinal": 320, "num_metrics_lines": 11}))
    assert store.latest() == saved


def test_a_write_that_fails_changes_nothing(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep_last=1)
    store.save(record(1), write)

    def fails_half_way(folder: Path) -> None:
        write(folder)
        raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space left"):
        store.save(record(2), fails_half_way)
    assert names(tmp_path) == ["step-000001"]


def test_old_checkpoints_go_only_after_the_new_one_is_complete(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep_last=2)
    seen_while_writing = []

    def looks_around(folder: Path) -> None:
        seen_while_writing.append([c.record.step for c in store.complete()])
        write(folder)

    for step in (9, 10, 100, 1_000_000):
        store.save(record(step), looks_around)
    assert seen_while_writing == [[], [9], [9, 10], [10, 100]]
    assert names(tmp_path) == ["step-000100", "step-1000000"]
    latest = store.latest()
    assert latest is not None and latest.record.step == 1_000_000


def test_the_same_step_saved_again_replaces_the_old_one(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep_last=1)
    before = store.save(record(5), write)
    assert before.state_path.is_dir()

    def write_anew(folder: Path) -> None:
        (folder / "model.safetensors").write_bytes(b"new")

    store.save(record(5), write_anew)
    assert not before.state_path.exists()
    assert names(tmp_path) == ["step-000005"]
    assert (tmp_path / "step-000005" / "model.safetensors").read_bytes() == b"new"


def test_leftovers_of_a_crash_are_ignored_and_cleaned(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    store.save(record(1), write)
    (tmp_path / ".tmp-step-000002").mkdir()
    (tmp_path / "step-000003").mkdir()  # copied by hand, not completely
    (tmp_path / "step-000001").rename(tmp_path / ".replaced-step-000001")  # died between the two renames
    assert store.latest() is None
    assert {path.name for path in store.clean()} == {".tmp-step-000002", "step-000003"}
    latest = store.latest()
    assert latest is not None and latest.record == record(1)
    assert names(tmp_path) == ["step-000001"]


@pytest.mark.parametrize(
    "content",
    [
        "[1]",
        '"text"',
        '{"step": 2}',
        '{"step": "two", "seed": 0, "data_fingerprint": ""}',
        "[" * 5000,
        '{"step": ' + "1" * 5000 + "}",
    ],
)
def test_a_checkpoint_of_somebody_elses_is_named_and_never_removed(tmp_path: Path, content: str) -> None:
    store = CheckpointStore(tmp_path)
    store.save(record(1), write)
    store.save(record(2), write)
    (tmp_path / "step-000002" / "complete.json").write_text(content)
    for look in (store.latest, store.clean):
        with pytest.raises(ValueError, match=r"step-000002/complete\.json: .*; go on with the version that wrote"):
            look()
    assert names(tmp_path) == ["step-000001", "step-000002"]


def test_a_process_killed_while_saving_leaves_the_last_complete_one(tmp_path: Path) -> None:
    program = f"""
import time
from pathlib import Path
from raylign.jobs.run.checkpoints import CheckpointRecord, CheckpointStore, DiskFullError

def write(folder):
    (folder / "model.safetensors").write_bytes(b"weights")

def writes_for_ever(folder):
    write(folder)
    Path({str(tmp_path / "half-way")!r}).touch()
    time.sleep(6000)

store = CheckpointStore({str(tmp_path / "checkpoints")!r}, keep_last=1)
store.save(CheckpointRecord(1, 7, "3f2a"), write)
store.save(CheckpointRecord(2, 7, "3f2a"), writes_for_ever)
"""
    process = subprocess.Popen([sys.executable, "-c", program])
    wait_until((tmp_path / "half-way").exists, "half of a checkpoint", [process])
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    store = CheckpointStore(tmp_path / "checkpoints", keep_last=1)
    assert [checkpoint.record.step for checkpoint in store.complete()] == [1]
    assert len(store.clean()) == 1
    assert names(tmp_path / "checkpoints") == ["step-000001"]


def test_a_checkpoint_folder_loads_in_transformers_as_it_is(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
    )
    model = Qwen2ForCausalLM(config)

    def write_model(folder: Path) -> None:
        model.save_pretrained(folder)
        write_state(folder)

    def write_state(folder: Path) -> None:
        (folder / "state").mkdir()
        (folder / "state" / "optimizer.pt").write_bytes(b"not a weight file")

    saved = CheckpointStore(tmp_path).save(record(3), write_model)
    loaded = AutoModelForCausalLM.from_pretrained(saved.path)
    expected = model.state_dict()
    assert all(bool((value == expected[name]).all()) for name, value in loaded.state_dict().items())


def test_a_full_disk_is_named_with_path_free_and_needed_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = CheckpointStore(tmp_path)
    store.save(record(1), write)
    usage = type(shutil.disk_usage(tmp_path))

    def fails(folder: Path) -> None:
        write(folder)
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 2925952 vs 2925840")

    monkeypatch.setattr("shutil.disk_usage", lambda _: usage(6 << 20, 6 << 20, 1000))
    with pytest.raises(DiskFullError, match=r"the disk is full: 1,016 bytes are free and a checkpoint takes 1,0\d\d,"):
        store.save(record(2), fails)
    assert names(tmp_path) == ["step-000001"]
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage(1 << 40, 0, 1 << 40))
    with pytest.raises(RuntimeError, match="unexpected pos"):
        store.save(record(2), fails)
