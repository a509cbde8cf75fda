"""Ray Train's TorchTrainer without five of its habits.

Given and giving what a TorchTrainer does, but:
- no placement-group cleaner: it polls the dashboard's state API every second and logs an error each time where there is
  no dashboard (a private cluster has none). It only matters for a controller that dies in a cluster that lives on; then
  Ray frees the group with the job.
- no data-set actors: we read data ourselves, and two more processes that import ray.data cost seconds at every start.
- no word to Ray's autoscaling coordinator: an actor more, which imports ray.data too, and a traceback in the output
  where it does not answer in 5 s on a busy machine. The placement group of the ranks asks the autoscaler for the same.
- the process group of ranks on one machine listens on loopback alone (`rollout/loopback_store.py`).
- ranks stay in the folder that the run was started in: paths in a config are relative to it.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Any

from ray.exceptions import RayActorError
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.torch.config import _TorchBackend
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.callbacks.working_dir_setup import WorkingDirectorySetupCallback
from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy

from raylign.actors.learner.mailbox import MailboxHandle
from raylign.rollout.loopback_store import keep_stores_on_loopback

FAREWELL_S = 5
"""For ranks to leave their process group; one that is stopped never does, and a new group waits for the old to end."""
LEFT_OUT = (DatasetsCallback, PlacementGroupCleanerCallback, WorkingDirectorySetupCallback)


class QuietTorchTrainer(TorchTrainer):
    """TorchTrainer as ours: fewer actors, and no change of folder."""

    def _create_default_callbacks(self) -> list[Any]:
        return [item for item in super()._create_default_callbacks() if not isinstance(item, LEFT_OUT)]

    mailbox: MailboxHandle | None = None
    """Is told the handle of the controller, which Ray Train keeps to itself."""

    def _initialize_and_run_controller(self, **controller_settings: Any) -> Any:
        controller_settings["scaling_policy"] = FixedRanks(self.scaling_config)
        controller_settings["scaling_policy"].mailbox = self.mailbox
        return super()._initialize_and_run_controller(**controller_settings)


class QuietTorchConfig(TorchConfig):
    """TorchConfig as ours."""

    @property
    def backend_cls(self) -> type[_TorchBackend]:
        return _LoopbackBackend


class _LoopbackBackend(_TorchBackend):
    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        worker_group.execute(keep_stores_on_loopback)
        super().on_start(worker_group, backend_config)

    def on_shutdown(self, worker_group: Any, backend_config: TorchConfig) -> None:
        os.environ["TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S"] = str(FAREWELL_S)  # of the controller, where this runs
        with suppress(RayActorError):  # of a rank that died: the others are ended whatever it says
            super().on_shutdown(worker_group, backend_config)


class FixedRanks(FixedScalingPolicy):
    """As many ranks as configured, and nobody told but the mailbox."""

    mailbox: MailboxHandle | None = None

    def after_controller_start(self, train_run_context: Any) -> None:
        import ray

        if self.mailbox is not None:
            self.mailbox.controlled_by.remote(ray.get_runtime_context().current_actor)

    def _maybe_send_resource_request(self) -> None:
        pass

    def _cancel_resource_request(self) -> None:
        pass
