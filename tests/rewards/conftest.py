"""Rewards that a test loads in its own process put their folders on the import path; each test has its own path."""

from __future__ import annotations

import sys

import pytest


@pytest.fixture(autouse=True)
def import_path_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a later test's child process, which is given the path, finds a module of the same name there first."""
    monkeypatch.setattr(sys, "path", [*sys.path])
