"""The daemons of these tests: their state in memory, collections only when somebody asks for one."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.model.client import Client
from tests.model.machine import SNAPSHOTTER, Rig
from tests.support.daemon import Daemon

CONFIG = """
content_sharing = "{sharing}"
[gc]
startup_delay = 1e9
interval = 0
"""
MEMORY = Path("/dev/shm")


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
