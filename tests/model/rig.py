"""The daemons of these tests: their state in memory, collections only when somebody asks for one."""

from __future__ import annotations

import contextlib
import json
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.model.client import Client, Where
from tests.model.drawing import SNAPSHOTTER
from tests.support.daemon import Daemon

SWEEPER = Where("sweeper")

CONFIG = """
content_sharing = "{sharing}"
[gc]
startup_delay = 1e9
interval = 0
"""
MEMORY = Path("/dev/shm")


@dataclass(frozen=True)
class Rig:
    """A daemon that collects only when it is told to, and what the model has to know of it."""

    client: Client
    root: Path
    sharing: bool

    def collect(self) -> None:
        """Have the daemon collect, and wait."""
        lease = f"sweep-{secrets.token_hex(4)}"
        self.client.create_lease(SWEEPER, lease, {})
        self.client.delete_lease(SWEEPER, lease, sync=True)

    def blobs(self) -> set[str]:
        """The digests of the blobs on the disk."""
        return {f"{path.parent.name}:{path.name}" for path in self.root.glob("content/content/blobs/*/*")}

    def ingests(self, prefix: str) -> int:
        """How many ingests on the disk belong to namespaces that begin with ``prefix``."""
        states = [json.loads(path.read_text()) for path in self.root.glob("content/content/ingest/*/state")]
        return sum(state["ref"].startswith(prefix) for state in states)

    def snapshots(self) -> int:
        """How many folders the snapshotter has."""
        return len(list(self.root.glob("snapshotter/overlayfs/snapshots/*")))


@contextlib.contextmanager
def rig(sharing: str, plugins: Mapping[str, str] | None = None) -> Iterator[Rig]:
    """A daemon with the policy ``sharing``, "shared" or "isolated"."""
    daemon = Daemon(CONFIG.format(sharing=sharing), plugins=plugins)
    # Nothing here depends on the disk, and thousands of fsyncs would be most of the time.
    daemon.root = Path(tempfile.mkdtemp(prefix="o-", dir=MEMORY if MEMORY.is_dir() else None))
    try:
        with daemon, daemon.channel() as channel:
            yield Rig(Client(channel, SNAPSHOTTER), daemon.root, sharing == "shared")
    finally:
        shutil.rmtree(daemon.root, ignore_errors=True)
