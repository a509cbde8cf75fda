"""Ray Train's TorchTrainer without four of its habits.

Given and giving what a TorchTrainer does, but:
- no placement-group cleaner: it polls the dashboard's state API every second and logs an error each time where there is
  no dashboard (a private cluster has none). It only matters for a controller that dies in a cluster that lives on; then
  Ray frees the group with the job.
- no data-set actors: we read data ourselves, and two more processes that import ray.data cost seconds at every start.
- ranks stay in the folder that the run was started in: paths in a config are relative to it.
- a request to the autoscaler may take as long as a busy machine needs: its five seconds end in a traceback that means
  nothing.
"""

from __future__ import annotations

from typing import Any

from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.callbacks.working_dir_setup import WorkingDirectorySetupCallback
from ray.train.v2._internal.execution.callback import ControllerCallback
from ray.train.v2._internal.execution.scaling_policy import autoscaling_coordinator_client

LEFT_OUT = (DatasetsCallback, PlacementGroupCleanerCallback, WorkingDirectorySetupCallback)

REQUEST_TIMEOUT_S = 300.0


class PatientRequests(ControllerCallback):
    """In the controller from when it is loaded there: the policy's request comes before any callback of ours."""

    def __init__(self) -> None:
        self._timeout_s = REQUEST_TIMEOUT_S

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        autoscaling_coordinator_client.AUTOSCALING_REQUESTS_GET_TIMEOUT_S = self._timeout_s


class QuietTorchTrainer(TorchTrainer):
    """TorchTrainer as ours: fewer actors, no change of folder, and patience."""

    def _create_default_callbacks(self) -> list[Any]:
        callbacks = [item for item in super()._create_default_callbacks() if not isinstance(item, LEFT_OUT)]
        return [*callbacks, PatientRequests()]
