"""A snapshotter on a page: every snapshot is a directory, copied from its parent by cp."""

import subprocess
from collections.abc import Iterable, Sequence

from pydantic import Field

from orlopd.plugin import Config, Context, Provider, Snapshotter, hookimpl
from orlopd.plugin.errors import Internal, Skip
from orlopd.plugin.snapshotter_base import Snapshot, SnapshotterBase
from orlopd.plugin.values import Mount, SnapshotKind

SECONDS = 600


class CopiesConfig(Config):
    """``[plugins.snapshotter.copies]``"""

    reflink: str = Field(default="auto", description="What to tell cp: auto, always or never.")


class Copies(SnapshotterBase):
    """Snapshots as directories."""

    reflink = "auto"

    def make(self, snapshot: Snapshot) -> None:
        files = snapshot.path / "fs"
        if not snapshot.parents:
            files.mkdir(mode=0o755)
            files.chmod(0o755)
            return
        command = ["cp", "-a", f"--reflink={self.reflink}", str(snapshot.parents[0] / "fs"), str(files)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
        if done.returncode:
            raise Internal(f"cp failed: {done.stderr.strip()}")

    def mount_points(self, snapshot: Snapshot) -> Sequence[Mount]:
        mode = "rw" if snapshot.kind is SnapshotKind.ACTIVE else "ro"
        return [Mount("bind", str(snapshot.path / "fs"), ("rbind", mode))]


def probe(context: Context) -> None:
    try:
        subprocess.run(["cp", "--version"], capture_output=True, timeout=SECONDS, check=True)
    except OSError as error:
        raise Skip(f"there is no cp on this machine: {error.strerror}") from error


def make(context: Context) -> Snapshotter:
    copies = Copies(context.root)
    copies.reflink = context.config.reflink
    return copies


@hookimpl
def orlop_snapshotters() -> Iterable[Provider[Snapshotter]]:
    yield Provider("copies", make, config=CopiesConfig, probe=probe)
