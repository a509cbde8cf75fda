"""Where metrics go besides the run folder: Weights & Biases, TensorBoard, Prometheus through Ray.

Given the metrics of each step; passes them on. None is needed, all are off by default, and one that fails
is left out with one warning: a tracker never ends a run.
"""

from __future__ import annotations

import re
import uuid
import warnings
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Protocol

from raylign.jobs.config.trackers import TrackersConfig
from raylign.jobs.run.folder import RunFolder, write_atomically
from raylign.jobs.run.metrics import describe
from raylign.rewards.addresses import without_secrets
from raylign.rollout.data.yaml_text import yaml_value

if TYPE_CHECKING:
    from ray.util.metrics import Gauge


class Tracker(Protocol):
    """One place that metrics go to."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


class Trackers:
    """All trackers that are switched on, behind the same two verbs."""

    def __init__(self, config: TrackersConfig, run_folder: RunFolder, start_step: int = 0) -> None:
        """`start_step`: where a resumed run goes on; what a tracker holds beyond it is replaced."""
        self._trackers: dict[str, Tracker] = {}
        if config.wandb:
            self._start("wandb", lambda: WandbTracker(config.wandb_project, run_folder))
        if config.tensorboard:
            self._start("tensorboard", lambda: TensorboardTracker(run_folder, start_step))
        if config.prometheus:
            self._start("prometheus", lambda: PrometheusTracker(run_folder.path.name))

    def log(self, step: int, metrics: Mapping[str, float | None]) -> None:
        """The metrics of one step; those without a value are left out."""
        values = {key: float(value) for key, value in metrics.items() if value is not None}
        for name, tracker in list(self._trackers.items()):
            try:
                tracker.log(step, values)
            except Exception as error:  # whatever a tracker or its network does, the run goes on
                self._give_up(name, error)

    def close(self) -> None:
        """Let every tracker finish what it holds."""
        for name, tracker in list(self._trackers.items()):
            try:
                tracker.close()
            except Exception as error:  # as above
                self._give_up(name, error)
        self._trackers.clear()

    def _start(self, name: str, make: Callable[[], Tracker]) -> None:
        try:
            self._trackers[name] = make()
        except Exception as error:  # as above
            self._give_up(name, error)

    def _give_up(self, name: str, error: Exception) -> None:
        self._trackers.pop(name, None)
        warnings.warn(
            f"{name} failed and gets no more metrics; metrics.jsonl has them all ({type(error).__name__}: {error})",
            stacklevel=3,
        )


class WandbTracker:
    """A Weights & Biases run; a resumed run goes on under the same id."""

    def __init__(self, project: str, run_folder: RunFolder) -> None:
        import wandb

        id_path = run_folder.path / "wandb" / "run_id"
        if not id_path.exists():
            id_path.parent.mkdir(exist_ok=True)
            write_atomically(id_path, uuid.uuid4().hex[:8])
        self._run = wandb.init(
            project=project,
            name=run_folder.path.name,
            id=id_path.read_text(),
            resume="allow",
            dir=str(run_folder.path),
            config=yaml_value(without_secrets(run_folder.config_path.read_text("utf-8")), str(run_folder.config_path)),
            # a terminal must not wait for a key to be typed in the middle of a run
            settings=wandb.Settings(login_timeout=30, init_timeout=60, console="off", silent=True),
        )

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._run.log(dict(metrics), step=step)

    def close(self) -> None:
        self._run.finish()


class TensorboardTracker:
    """TensorBoard event files."""

    def __init__(self, run_folder: RunFolder, start_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(
            str(run_folder.path / "tensorboard"), purge_step=start_step + 1 if start_step else None
        )

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        for key, value in metrics.items():
            if key != "step":
                self._writer.add_scalar(key, value, step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class PrometheusTracker:
    """A gauge for each metric, tagged with the run's name, served by Ray."""

    def __init__(self, run_name: str) -> None:
        self._run_name = run_name
        self._gauges: dict[str, Gauge] = {}

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        from ray.util.metrics import Gauge

        for key, value in metrics.items():
            if key not in self._gauges:
                metric = describe(key)
                self._gauges[key] = Gauge(prometheus_name(key), metric.meaning if metric else "", tag_keys=("run",))
            self._gauges[key].set(value, tags={"run": self._run_name})

    def close(self) -> None:
        self._gauges.clear()


def prometheus_name(key: str) -> str:
    """`reward/mean` is `raylign_reward_mean`."""
    return "raylign_" + re.sub(r"[^a-zA-Z0-9_]", "_", key)
