"""The snapshotter kit over every snapshotter there is."""

from __future__ import annotations

import functools

import pytest

from orlop_plugins.overlayfs.probe import overlay_options
from orlop_plugins.overlayfs.snapshotter import OverlaySnapshotter
from orlop_plugins.vfs.snapshotter import VfsSnapshotter
from orlopd.plugin.snapshots import Snapshotter
from orlopd.testing.snapshotter import Factory, SnapshotterKit


class TestOverlayfs(SnapshotterKit):
    @pytest.fixture
    def factory(self) -> Factory[Snapshotter]:
        return functools.partial(OverlaySnapshotter, options=overlay_options())


class TestVfs(SnapshotterKit):
    @pytest.fixture
    def factory(self) -> Factory[Snapshotter]:
        return VfsSnapshotter
