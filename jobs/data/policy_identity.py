"""Which policy answered: the name of a model with a fingerprint of its weights.

Given a model folder or Hugging Face id; gives `path@1f3a9c02`, another one when the weights in the folder change.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from raylign.rollout.model_folder import find_model_folder

SAMPLE_BYTES = 1 << 20
"""Read at three places of each weight file: training moves all weights, and whole files would take minutes."""


def policy_identity(model_path: str) -> str:
    """A Hugging Face id stands for itself."""
    folder = find_model_folder(model_path)
    if folder is None:
        return model_path
    digest = hashlib.blake2b(digest_size=4)
    for file in sorted([*folder.glob("*.safetensors"), *folder.glob("*.bin"), folder / "config.json"]):
        digest.update(f"{file.name} {_sampled(file)}".encode())
    return f"{model_path}@{digest.hexdigest()}"


def _sampled(path: Path) -> str:
    num_bytes = path.stat().st_size
    digest = hashlib.blake2b(str(num_bytes).encode())
    with path.open("rb") as file:
        for start in (0, num_bytes // 2, max(0, num_bytes - SAMPLE_BYTES)):
            file.seek(start)
            digest.update(file.read(SAMPLE_BYTES))
    return digest.hexdigest()
