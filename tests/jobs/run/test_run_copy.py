"""A run folder's copy in object storage: what is there after which round, and the way back."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from moto.server import ThreadedMotoServer

from raylign.jobs.run.checkpoints import CheckpointRecord, CheckpointStore
from raylign.jobs.run.copying import Copying
from raylign.jobs.run.run_copy import RunCopy, RunCopyError


@pytest.fixture(scope="module")
def storage() -> Iterator[str]:
    """An S3 on loopback: the address's query."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "of-tests")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "of-tests-5ecre7")
        server.start()
        host, port = server.get_host_and_port()
        yield f"?endpoint_override={host}:{port}&scheme=http&region=us-east-1&allow_bucket_creation=true"
        server.stop()


@pytest.fixture(params=["s3", "file"])
def address(request: pytest.FixtureRequest, storage: str, tmp_path: Path) -> str:
    """Nothing is there yet; both kinds must behave alike."""
    return f"s3://runs/{tmp_path.name}{storage}" if request.param == "s3" else f"file://{tmp_path}/copy"


def save(folder: Path, step: int, weights: str = "weights") -> None:
    """A checkpoint of `step`, of the two newest."""

    def write(inside: Path) -> None:
        (inside / "state").mkdir()
        (inside / "state" / "moments").write_text(f"{weights} {step}")
        (inside / "model.safetensors").write_text(f"{weights} {step}")

    CheckpointStore(folder / "checkpoints", 2).save(CheckpointRecord(step, 0, "rows", seconds=time.monotonic()), write)


def run_folder(path: Path) -> Path:
    """Of a run at step 1, with a log."""
    (path / "experience").mkdir(parents=True)
    (path / "config.yaml").write_text("seed: 0\n")
    (path / "metrics.jsonl").write_text('{"step": 1}\n')
    (path / ".lock").write_text("")
    (path / "experience" / "journal.log").write_text("one\n")
    (path / "experience" / "segment-000000.arrows").write_bytes(b"record one")
    save(path, 1)
    return path


def files_of(folder: Path) -> dict[str, bytes]:
    """All but the lock."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


def test_a_folder_that_is_lost_comes_back_as_it_was_at_the_last_round(address: str, tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "run")
    copy = RunCopy(address)
    copy.check()
    assert not copy.holds_a_run()
    assert copy.steps() == []
    copy.upload(folder, 2, set())
    before = files_of(folder)
    (folder / "experience" / "segment-000000.arrows").write_bytes(b"record one, record two")  # never copied
    shutil.rmtree(folder)
    again = RunCopy(address)
    assert again.holds_a_run()
    assert again.steps() == [1]
    assert again.download(folder) == 1
    assert files_of(folder) == before
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".tmp-")]


def test_later_rounds_bring_what_changed_and_keep_the_newest_checkpoints(address: str, tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "run")
    copy = RunCopy(address)
    copy.upload(folder, 2, set())
    (folder / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}\n')
    (folder / "experience" / "segment-000000.arrows").write_bytes(b"record one, record two")
    save(folder, 2)
    save(folder, 3)
    copy.upload(folder, 2, set())
    assert copy.steps() == [2, 3]
    save(folder, 3, weights="others")  # the same step again, as after a stop and a resume
    RunCopy(address).upload(folder, 2, set())
    back = tmp_path / "back"
    assert RunCopy(address).download(back) == 3
    expected = {path: text for path, text in files_of(folder).items() if not path.startswith("checkpoints/step-000002")}
    assert files_of(back) == expected
    assert b"others" in files_of(back)["checkpoints/step-000003/model.safetensors"]


def test_a_checkpoint_whose_upload_broke_off_is_not_there(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = run_folder(tmp_path / "run")
    copy = RunCopy(address)
    copy.upload(folder, 2, set())
    save(folder, 2)
    put = RunCopy._put

    def fails_at_the_weights(self: RunCopy, file: Path, path: str) -> None:
        if path.endswith("model.safetensors"):
            raise OSError(28, "No space left on device")
        put(self, file, path)

    with monkeypatch.context() as patch:
        patch.setattr(RunCopy, "_put", fails_at_the_weights)
        held: set[Path] = set()
        with pytest.raises(RunCopyError, match=r"could not be written.*No space left"):
            copy.upload(folder, 2, held)
        assert not held
    assert RunCopy(address).steps() == [1]
    assert RunCopy(address).download(tmp_path / "back") == 1
    copy.upload(folder, 2, set())
    assert RunCopy(address).steps() == [1, 2]


def test_a_round_that_fails_is_said_and_the_last_one_is_an_error_that_names_the_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run_folder(tmp_path / "run")
    (tmp_path / "taken").write_text("a file where the copy should be")
    copying = Copying(RunCopy(f"file://{tmp_path}/taken"), folder)
    copying.watch(CheckpointStore(folder / "checkpoints"))

    async def run() -> None:
        copying.begin()
        assert copying._last is not None
        with pytest.raises(RunCopyError):
            await asyncio.wrap_future(copying._last)
        with pytest.raises(RunCopyError, match=f"the run is whole in {folder}, but not its copy"):
            await copying.finish(60.0)

    asyncio.run(run())
    assert "tried again after the next checkpoint" in capsys.readouterr().out


def test_a_run_that_never_had_its_folder_copies_nothing(tmp_path: Path) -> None:
    """It may be the folder of another run."""
    folder = run_folder(tmp_path / "run")
    copy = RunCopy(f"file://{tmp_path}/copy")
    asyncio.run(Copying(copy, folder).finish(60.0))
    assert not copy.holds_a_run()


def test_one_copy_serves_every_start_of_the_run(tmp_path: Path) -> None:
    """Several stores of one folder, one for each start of the run, and one copy."""
    folder = run_folder(tmp_path / "run")
    copy = RunCopy(f"file://{tmp_path}/copy")
    copying = Copying(copy, folder)
    for step in (2, 3):
        store = CheckpointStore(folder / "checkpoints")
        copying.watch(store)
        save(folder, step)
        store.saved()
    asyncio.run(copying.finish(60.0))
    assert copy.steps() == [2, 3]


def test_a_checkpoint_that_is_being_copied_stays(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep_last=1)

    def write(folder: Path) -> None:
        (folder / "model.safetensors").touch()

    first = store.save(CheckpointRecord(1, 0, "rows"), write)
    store.held.add(first.path)
    store.save(CheckpointRecord(2, 0, "rows"), write)
    assert [checkpoint.record.step for checkpoint in store.complete()] == [1, 2]
    store.held.clear()
    store.save(CheckpointRecord(3, 0, "rows"), write)
    assert [checkpoint.record.step for checkpoint in store.complete()] == [3]


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("s3://key:5ecre7@bucket/run", "holds a name or password before the @"),
        ("s3://bucket/run?secret_key=5ecre7", "holds a secret in its query"),
        ("ftp://host/run", "ftp"),
        ("bucket/run", "bucket/run"),
    ],
)
def test_an_address_that_opens_nothing_or_holds_a_secret_is_refused(address: str, words: str) -> None:
    with pytest.raises(RunCopyError, match=words) as raised:
        RunCopy(address)
    assert "5ecre7" not in str(raised.value)


def test_a_storage_that_does_not_answer_is_an_error_with_its_address(storage: str) -> None:
    with pytest.raises(RunCopyError, match=r"s3://runs/x.*cannot be written"):
        RunCopy("s3://runs/x?endpoint_override=127.0.0.1:9&scheme=http&region=us-east-1").check()
