"""`raylign export`: a trained model as a folder to give away, and its upload where that is asked for.

Given an `ExportConfig`; gives a folder that is whole or not there:

    model and tokenizer     as the checkpoint has them, in Hugging Face format; no optimizer state
    README.md               data, settings, numbers, curves
    training/               config.yaml, metrics.jsonl, curves as SVG
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from raylign.jobs.export.card import RunFacts, card
from raylign.jobs.export.config import ExportConfig
from raylign.jobs.export.curves import svg_of_figure
from raylign.jobs.report.charts import figures
from raylign.jobs.run.checkpoints import STATE, Checkpoint, CheckpointStore
from raylign.jobs.run.folder import read_metrics, write_atomically
from raylign.jobs.run.output_folder import check_can_write, hold
from raylign.jobs.run.trained_as import config_of_run, run_of_model
from raylign.rollout.model_folder import check_model_folder

OF_THE_RUN = (STATE, "complete.json")
"""Of a checkpoint, what only a resumed run needs."""
TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")


def export(config: ExportConfig) -> Path:
    """Check everything, write the folder, upload it."""
    run = run_of_model(config.model)
    if run is None:
        raise ValueError(
            f"model {config.model!r} is neither a run folder (config.yaml, checkpoints/) nor a checkpoint in one, so "
            "there is nothing to write a card from"
        )
    checkpoint = checkpoint_of(config.model, run)
    check_model_folder(checkpoint.path)
    token = hub_token() if config.push is not None else None
    if config.output.exists() and (not config.output.is_dir() or any(config.output.iterdir())):
        raise ValueError(f"output {config.output} exists and is not empty: choose a new folder")
    if config.output.resolve().is_relative_to(checkpoint.path.resolve()):
        raise ValueError(f"output {config.output} lies in the checkpoint that it is copied from: choose another folder")
    check_can_write(config.output)
    write_folder(config.output, run, checkpoint)
    print(f"{checkpoint.path} exported: {config.output}")
    if config.push is not None:
        assert token is not None
        push(config.output, config.push, token, config.private)
    return config.output


def checkpoint_of(model: str, run: Path) -> Checkpoint:
    """The one that is named, else the newest."""
    found = CheckpointStore(run / "checkpoints").complete()
    named = Path(model).expanduser().absolute()
    if named != run.absolute():
        found = [checkpoint for checkpoint in found if checkpoint.path.absolute() == named]
    if not found:
        raise ValueError(f"{model} holds no complete checkpoint; `raylign train … --resume` goes on to the next one")
    return found[-1]


def write_folder(output: Path, run: Path, checkpoint: Checkpoint) -> None:
    """Beside it first, and in place in one move."""
    half_written = output.with_name(f".{output.name}.half-written")
    half_written.mkdir(parents=True, exist_ok=True)
    with hold(half_written) as lock:
        try:
            for left in half_written.iterdir():  # by an export that was killed
                if left.name != Path(lock.name).name:
                    shutil.rmtree(left) if left.is_dir() else left.unlink()
            _fill(half_written, run, checkpoint)
            if output.is_dir():
                output.rmdir()  # empty, or this fails
            Path(lock.name).unlink()
            half_written.rename(output)
        except BaseException:
            shutil.rmtree(half_written, ignore_errors=True)
            raise


def _fill(folder: Path, run: Path, checkpoint: Checkpoint) -> None:
    shutil.copytree(
        checkpoint.path, folder, ignore=shutil.ignore_patterns(*OF_THE_RUN), copy_function=_copy, dirs_exist_ok=True
    )
    training = folder / "training"
    training.mkdir()
    shutil.copyfile(run / "config.yaml", training / "config.yaml")
    metrics = [line for line in read_metrics(run) if line.get("step", 0) <= checkpoint.record.step]
    write_atomically(training / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in metrics))
    curves = []
    for number, (chart, figure) in enumerate(figures(metrics)[0], 1):
        file = f"training/curve-{number:02d}.svg"
        write_atomically(folder / file, svg_of_figure(chart, figure))
        curves.append((chart.title, file))
    facts = RunFacts(
        name=run.absolute().name,
        checkpoint=checkpoint.path.name,
        step=checkpoint.record.step,
        config=config_of_run(run),
        metrics=metrics,
        versions=checkpoint.record.versions,
    )
    write_atomically(folder / "README.md", card(facts, curves))


def _copy(source: str, target: str) -> str:
    """Without the mode: libraries write weights for their owner's eyes alone."""
    return shutil.copyfile(source, target)


def hub_token() -> str:
    """From the environment alone: a key on the command line would stand in histories and process lists."""
    for name in TOKENS:
        if os.environ.get(name):
            return os.environ[name]
    raise ValueError(f"push needs a token: set {TOKENS[0]} in the environment; nothing was written")


def push(folder: Path, repository: str, token: str, private: bool) -> None:
    """Upload; where that fails the folder stays."""
    import httpx2
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    api = HfApi(token=token)
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        address = api.upload_folder(repo_id=repository, folder_path=folder, commit_message="Exported by raylign")
    except (HfHubHTTPError, httpx2.HTTPError, OSError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ValueError(
            f"push to {repository} failed: {reason}; the folder {folder} is whole, so upload it later, or export again "
            "to a new one"
        ) from error
    print(f"uploaded: {address}")
