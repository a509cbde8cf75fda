"""Where metrics go besides the run folder: the section `trackers`."""

from __future__ import annotations

from pydantic import BaseModel


class TrackersConfig(BaseModel, extra="forbid", use_attribute_docstrings=True):
    """Which trackers get the metrics besides `metrics.jsonl`."""

    wandb: bool = False
    """Weights & Biases; the environment decides the rest (WANDB_MODE=offline, WANDB_API_KEY, WANDB_ENTITY)."""
    wandb_project: str = "raylign"
    """Project that the run belongs to."""
    tensorboard: bool = False
    """TensorBoard event files, in `tensorboard/` of the run folder."""
    prometheus: bool = False
    """Gauges on the metrics endpoint of Ray's nodes, which calls them `ray_raylign_…`."""
