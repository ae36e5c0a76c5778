"""A remote snapshotter in a page: it gets layers by itself, here from a folder of trees named by blob."""

import shutil
from pathlib import Path

from orlopd.plugin import Config, Provider, hookimpl
from orlopd.plugin.errors import AlreadyExists
from orlopd.plugin.snapshotter_base import SnapshotterBase
from orlopd.plugin.values import NO_LABELS, Mount, SnapshotKind

TARGET = "containerd.io/snapshot.ref"
LAYER = "containerd.io/snapshot/cri.layer-digest"


class RemoteConfig(Config):
    trees: Path = Path("/nowhere")


class Remote(SnapshotterBase):
    def __init__(self, root, trees):
        super().__init__(root)
        self.trees = trees
        self.asked = []

    def make(self, snapshot):
        if snapshot.parents:
            shutil.copytree(snapshot.parents[0] / "fs", snapshot.path / "fs", symlinks=True)
        else:
            (snapshot.path / "fs").mkdir()

    def mount_points(self, snapshot):
        mode = "rw" if snapshot.kind is SnapshotKind.ACTIVE else "ro"
        return [Mount("bind", str(snapshot.path / "fs"), ("rbind", mode))]

    async def prepare(self, key, parent, labels=NO_LABELS):
        if TARGET in labels:
            self.asked.append(dict(labels))
        mounts = await super().prepare(key, parent, labels)
        tree = self.trees / labels.get(LAYER, "none").replace(":", "-")
        if TARGET not in labels or not tree.is_dir():
            return mounts
        shutil.copytree(tree, mounts[0].source, symlinks=True, dirs_exist_ok=True)
        await self.commit(f"{key} remote", key, labels)
        raise AlreadyExists(f"{labels[TARGET]} is here")


@hookimpl
def orlop_snapshotters():
    yield Provider("remote", lambda context: Remote(context.root, context.config.trees), config=RemoteConfig)
