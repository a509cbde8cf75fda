"""Where the proximal policy of a clipped ratio comes from."""

from __future__ import annotations

from typing import Literal

Proximal = Literal["recompute", "loglinear", "rollout"]
"""Where π_old comes from: a forward pass before the first of several optimizer steps (with one step it is the policy
itself), interpolation between π_roll and π_θ, or π_roll itself.
"""
