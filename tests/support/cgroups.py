"""Control groups of the machine: where a process is in them, and Debian's crun where it refuses them."""

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


def cgroup_file(pid: int, controller: str, file: str) -> Path:
    """A file of the group that a process is in for a controller, of whichever version."""
    places: dict[str, str] = {}
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        places |= dict.fromkeys(controllers.split(","), path)
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        place, kind, options = line.split()[4], *line.rpartition(" - ")[2].split()[::2]
        if kind == "cgroup" and controller in options.split(","):
            return Path(place + places[controller]) / file
    return Path(f"{version_2()}{places['']}") / file


def version_2() -> Path:
    """Where version 2 is mounted, alone or beside version 1."""
    top = Path("/sys/fs/cgroup")
    return top if (top / "cgroup.controllers").exists() else top / "unified"
