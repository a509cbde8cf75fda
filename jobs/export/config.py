"""The configuration of `raylign export`.

Given nothing heavy; gives `ExportConfig`, checked across fields.
"""

from __future__ import annotations

import re
from pathlib import Path

from pydantic import BaseModel, model_validator

REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")


class ExportConfig(BaseModel, extra="forbid", use_attribute_docstrings=True):
    """A trained model as a folder to give away."""

    model: str
    """Run folder (its last checkpoint) or one of its checkpoint folders."""
    output: Path
    """Folder to write: model, tokenizer, README.md, and training/ with config, metrics and curves. It must be new or
    empty."""
    push: str | None = None
    """Hugging Face repository to upload the folder to, ORG/NAME; needs HF_TOKEN in the environment. Empty: none."""
    private: bool = True
    """Whether a repository that `push` makes is private; one that is there stays as it is."""

    @model_validator(mode="after")
    def _check(self) -> ExportConfig:
        if self.push is not None and not REPOSITORY.fullmatch(self.push):
            raise ValueError(f"push is {self.push!r}: write ORG/NAME, of letters, digits, `-`, `_` and `.`")
        return self
