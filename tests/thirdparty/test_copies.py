"""What the author of the one-page snapshotter runs: the kit."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from orlopd.plugin.snapshots import Snapshotter
from orlopd.testing.snapshotter import Factory, SnapshotterKit

HERE = Path(__file__).parent


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class TestCopies(SnapshotterKit):
    @pytest.fixture
    def factory(self) -> Factory[Snapshotter]:
        return load(HERE / "orlop_snapshotter_copies.py").Copies


def test_it_is_a_page() -> None:
    source = (HERE / "orlop_snapshotter_copies.py").read_text().splitlines()
    assert len(source) <= 60
