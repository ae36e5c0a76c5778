"""Debian's crun on a machine that it refuses: one with version 2 of control groups beside version 1."""

from __future__ import annotations

from pathlib import Path

_SCRIPT = """#!/bin/sh
# The daemon leaves a crun of this version out on such a machine; it is not to know.
case $1 in --version) crun --version | sed 's/^crun version/crun, hidden from version 2,/'; exit;; esac
# What crun makes in the place of version 2 goes with the mount namespace, which this command is alone in.
exec unshare -m --propagation slave sh -c '
if mountpoint -q /sys/fs/cgroup/unified; then
    umount /sys/fs/cgroup/unified && mount -t tmpfs none /sys/fs/cgroup/unified
fi
exec crun "$@"' crun "$@"
"""


def crun_as_on_version_1(folder: Path) -> Path:
    """A program that runs crun in a mount namespace without version 2."""
    path = folder / "crun"
    path.write_text(_SCRIPT)
    path.chmod(0o755)
    return path
