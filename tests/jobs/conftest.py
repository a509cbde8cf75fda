"""Fixtures that several files of this folder share."""

from __future__ import annotations

import functools

import pytest

from raylign.jobs.checks import plan
from tests.jobs.stand_ins import StandIns


@pytest.fixture(scope="session")
def stand_ins(tmp_path_factory: pytest.TempPathFactory) -> StandIns:
    """One model and small files, in place of all that recipes would download."""
    return StandIns(tmp_path_factory.mktemp("stand-ins"))


@pytest.fixture
def one_tokenizer(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stand-in's tokenizer is read once for all plans."""
    monkeypatch.setattr(plan, "load_tokenizer", READ_TOKENIZER)


READ_TOKENIZER = functools.cache(plan.load_tokenizer)
