"""Ray Train's TorchTrainer without its placement-group cleaner.

The cleaner polls the dashboard's state API every second and logs an error each time where there is no dashboard (a
private cluster has none). It only matters for a controller that dies in a cluster that lives on; then Ray frees the
group with the job.
"""

from __future__ import annotations

from typing import Any

from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback


class QuietTorchTrainer(TorchTrainer):
    """TorchTrainer as ours: same behaviour, one actor less."""

    def _create_default_callbacks(self) -> list[Any]:
        callbacks = super()._create_default_callbacks()
        return [item for item in callbacks if not isinstance(item, PlacementGroupCleanerCallback)]
