"""Debian's podman with storage of its own, for images only."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.daemon import mounts_under

_STORAGE = """
[storage]
driver = "overlay"
graphroot = "{folder}/root"
runroot = "{folder}/run"
"""
_POLICY = '{"default": [{"type": "insecureAcceptAnything"}]}'


@dataclass(frozen=True)
class Podman:
    """A podman whose images are below ``folder``."""

    folder: Path

    def must(self, *words: str) -> str:
        """What a command that has to succeed writes."""
        environment = {
            **os.environ,
            "CONTAINERS_STORAGE_CONF": str(self.folder / "storage.conf"),
            "TMPDIR": str(self.folder),
            "HOME": str(self.folder),
            "XDG_CONFIG_HOME": str(self.folder),
            "XDG_RUNTIME_DIR": str(self.folder),
        }
        line = ["podman", "--events-backend", "none", "--cgroup-manager", "cgroupfs", *words]
        done = subprocess.run(line, capture_output=True, text=True, timeout=60, env=environment)
        assert done.returncode == 0, f"{shlex.join(line)}: {done.stderr}"
        return done.stdout


@contextmanager
def podman(folder: Path) -> Iterator[Podman]:
    """A podman for the length of the block; nothing of it stays mounted."""
    (folder / "storage.conf").write_text(_STORAGE.format(folder=folder))
    (folder / "containers").mkdir()
    (folder / "containers" / "policy.json").write_text(_POLICY)
    try:
        yield Podman(folder)
    finally:
        for point in mounts_under(folder):
            subprocess.run(["umount", "-l", point], capture_output=True)
