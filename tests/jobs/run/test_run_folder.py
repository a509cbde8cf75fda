"""The run folder keeps what it is given, over crashes and resumes."""

from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
import yaml

from raylign.jobs.config.loading import completed, config_yaml, load_config
from raylign.jobs.config.train import TrainConfig
from raylign.jobs.run.folder import RunFolder, read_metrics, write_atomically
from raylign.jobs.run.output_folder import config_differences

CONFIG = "name: a\nnum_steps: 10\nlearner:\n  learning_rate: 0.001\n  lora: null\nresume: false\n"


def test_a_new_folder_holds_the_config_and_places_for_the_rest(tmp_path: Path) -> None:
    with RunFolder.create(tmp_path / "runs" / "a", CONFIG) as run_folder:
        run_folder.append_metrics({"step": 1, "reward/mean": 0.5, "learner/loss": float("nan")})
        run_folder.append_metrics({"step": 2, "reward/mean": 0.75})
        assert len(read_metrics(run_folder.path)) == 2
        run_folder.write_summary({"accuracy_after": 0.9})
    path = tmp_path / "runs" / "a"
    assert (path / "config.yaml").read_text() == CONFIG
    assert (path / "samples").is_dir() and (path / "checkpoints").is_dir()
    assert read_metrics(path)[0] == {"step": 1, "reward/mean": 0.5, "learner/loss": None}
    assert sorted(file.name for file in path.iterdir()) == [
        ".lock",
        "checkpoints",
        "config.yaml",
        "metrics.jsonl",
        "samples",
        "summary.json",
    ]


def test_metrics_are_on_disk_while_the_run_goes_on(tmp_path: Path) -> None:
    with RunFolder.create(tmp_path, CONFIG) as run_folder:
        run_folder.append_metrics({"step": 1})
        assert read_metrics(tmp_path) == [{"step": 1}]


def test_an_existing_folder_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match=r"--resume.*new name"):
        RunFolder.create(tmp_path, CONFIG)
    with pytest.raises(ValueError, match="not a folder to resume"):
        RunFolder.create(tmp_path, CONFIG, resume=True)
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.txt"]
    with pytest.raises(ValueError, match="is a file"):
        RunFolder.create(tmp_path / "thesis.txt", CONFIG)


def test_resume_of_a_folder_that_is_not_there_starts_it(tmp_path: Path) -> None:
    """A job that a cluster restarts always says --resume."""
    RunFolder.create(tmp_path / "a", CONFIG, resume=True).close()
    assert (tmp_path / "a" / "config.yaml").is_file()


def test_resume_with_another_config_names_the_keys_that_differ(tmp_path: Path) -> None:
    RunFolder.create(tmp_path, CONFIG).close()
    changed = CONFIG.replace("0.001", "0.01").replace("name: a", "name: b")
    with pytest.raises(ValueError, match=r"learner.learning_rate: 0.001 -> 0.01\n  name: a -> b"):
        RunFolder.create(tmp_path, changed, resume=True)
    assert (tmp_path / "config.yaml").read_text() == CONFIG


def test_num_steps_may_grow_but_not_shrink() -> None:
    grows = ((), ("num_steps",))
    assert config_differences(CONFIG, CONFIG.replace("10", "20").replace("false", "true"), *grows) == []
    assert config_differences(CONFIG, CONFIG.replace("10", "5"), *grows) == ["num_steps: 10 -> 5"]
    assert config_differences(CONFIG, CONFIG.replace("lora: null", "lora: {rank: 4}"), *grows) == [
        "learner.lora: None -> absent",
        "learner.lora.rank: absent -> 4",
    ]


def test_resume_moves_the_lines_after_the_checkpoint_aside(tmp_path: Path) -> None:
    with RunFolder.create(tmp_path, CONFIG) as run_folder:
        for step in range(1, 6):
            run_folder.append_metrics({"step": step})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "rew')  # the machine died here
    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 2, 3, 4, 5]
    with RunFolder.create(tmp_path, CONFIG, resume=True) as run_folder:
        assert run_folder.cut_metrics(last_step=3) == 3
        assert run_folder.cut_metrics(last_step=3) == 0
        run_folder.append_metrics({"step": 4, "again": 1})
    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 2, 3, 4]
    cut = (tmp_path / "metrics.cut-1.jsonl").read_text().splitlines()
    assert cut == ['{"step": 4}', '{"step": 5}', '{"step": 6, "rew']


@pytest.mark.parametrize(
    "place", ["checkpoints", "metrics.jsonl", "samples/step-000001.jsonl", ".lock", "experience/a"]
)
def test_a_link_out_of_the_folder_is_refused_and_nothing_outside_changes(tmp_path: Path, place: str) -> None:
    path, outside = tmp_path / "run", tmp_path / "outside"
    RunFolder.create(path, CONFIG).close()
    (outside / "checkpoints" / ".tmp-step-000001").mkdir(parents=True)
    (outside / "file").write_text("years of work")
    link = path / place
    link.parent.mkdir(exist_ok=True)
    if link.is_dir():
        link.rmdir()
    link.unlink(missing_ok=True)
    link.symlink_to(outside / ("checkpoints" if place == "checkpoints" else "file"))
    with pytest.raises(ValueError, match=f"{link} is a link to {outside}/"):
        RunFolder.create(path, CONFIG, resume=True)
    assert (outside / "file").read_text() == "years of work"
    assert (outside / "checkpoints" / ".tmp-step-000001").is_dir()


def test_links_within_the_folder_and_a_link_to_it_are_taken(tmp_path: Path) -> None:
    RunFolder.create(tmp_path / "disk", CONFIG).close()
    (tmp_path / "disk" / "latest").symlink_to("checkpoints")
    (tmp_path / "run").symlink_to(tmp_path / "disk")
    RunFolder.create(tmp_path / "run", CONFIG, resume=True).close()


def test_a_link_in_the_place_of_a_half_written_file_leads_nowhere(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("years of work")
    (tmp_path / ".tmp-report.html").symlink_to(tmp_path / "mine")
    (tmp_path / "report.html").symlink_to(tmp_path / "mine")
    write_atomically(tmp_path / "report.html", "page")
    assert (tmp_path / "mine").read_text() == "years of work"
    assert (tmp_path / "report.html").read_text() == "page" and not (tmp_path / "report.html").is_symlink()


def test_two_processes_cannot_write_one_run(tmp_path: Path) -> None:
    with (
        RunFolder.create(tmp_path, CONFIG),
        pytest.raises(ValueError, match="another process is writing"),
    ):
        RunFolder.create(tmp_path, CONFIG, resume=True)
    RunFolder.create(tmp_path, CONFIG, resume=True).close()


def test_keys_that_came_since_do_not_hinder_a_resume_and_changed_ones_do(tmp_path: Path) -> None:
    config = load_config(TrainConfig, ["grpo_arithmetic"], {"folder": str(tmp_path / "run")})
    before = yaml.safe_load(config_yaml(config))
    del before["rollout"]["max_reward_failures"], before["rewards"][0]["kind"], before["trackers"]
    RunFolder.create(config.folder, yaml.safe_dump(before)).close()
    with_defaults = partial(completed, TrainConfig)
    RunFolder.create(config.folder, config_yaml(config), True, with_defaults).close()
    RunFolder(config.folder).config_path.write_text(yaml.safe_dump(before))
    changed = load_config(
        TrainConfig, ["grpo_arithmetic"], {"folder": str(config.folder), "rollout": {"max_reward_failures": 0.1}}
    )
    with pytest.raises(ValueError, match=r"\n  rollout\.max_reward_failures: 0\.5 -> 0\.1\n"):
        RunFolder.create(config.folder, config_yaml(changed), True, with_defaults)
    assert completed(TrainConfig, "gone: 1") == "gone: 1"


def test_a_full_disk_is_told_with_the_file_that_it_met(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", CONFIG)
    assert folder._metrics_file is not None
    folder._metrics_file.close()
    with suppress(OSError), Path("/dev/full").open("w") as full:  # its end fails too
        folder._metrics_file = full
        with pytest.raises(OSError, match=r"No space left on device: '.*run/metrics\.jsonl'"):
            folder.append_metrics({"step": 1})
    folder._metrics_file = None
    folder.close()
