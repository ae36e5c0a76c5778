"""The differ kit over every differ there is."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from orlop_plugins.tar.differ import TarDiffer
from orlop_plugins.tar.limits import Limits
from orlop_plugins.tar.pool import WorkerPool
from orlopd.plugin.diff import Differ
from orlopd.testing.differ import DifferKit, Factory


def make(root: Path) -> Differ:
    scratch = root / "scratch"
    scratch.mkdir()
    return TarDiffer(WorkerPool(2, logging.getLogger("test")), scratch, Limits())


class TestWalking(DifferKit):
    @pytest.fixture
    def factory(self) -> Factory[Differ]:
        return make
