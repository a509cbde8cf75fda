"""Placeholder filled below."""

from __future__ import annotations

from raylign.rollout.engine_process import end_with_owner


class WorkerExtension:
    """Mixed into vLLM's worker class by `worker_extension_cls`."""


end_with_owner()
