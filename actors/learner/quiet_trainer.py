"""Ray Train's TorchTrainer without three of its habits.

Given and giving what a TorchTrainer does, but:
- no placement-group cleaner: it polls the dashboard's state API every second and logs an error each time where there is
  no dashboard (a private cluster has none). It only matters for a controller that dies in a cluster that lives on; then
  Ray frees the group with the job.
- no data-set actors: we read data ourselves, and two more processes that import ray.data cost seconds at every start.
- ranks stay in the folder that the run was started in: paths in a config are relative to it.
"""

from __future__ import annotations

from typing import Any

from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.callbacks.working_dir_setup import WorkingDirectorySetupCallback

LEFT_OUT = (DatasetsCallback, PlacementGroupCleanerCallback, WorkingDirectorySetupCallback)


class QuietTorchTrainer(TorchTrainer):
    """TorchTrainer as ours: fewer actors, and no change of folder."""

    def _create_default_callbacks(self) -> list[Any]:
        return [item for item in super()._create_default_callbacks() if not isinstance(item, LEFT_OUT)]
