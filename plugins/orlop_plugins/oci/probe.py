"""Whether an OCI runtime can run anything on this machine."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from orlopd.plugin import Context
from orlopd.plugin.errors import Skip

from .advisories import version_of
from .folder import Folder

UNIFIED = Path("/sys/fs/cgroup/unified")
"""Where version 2 of control groups is mounted beside version 1."""

_HYBRID_SINCE = (1, 9)


def probe(name: str, context: Context) -> None:
    """See :attr:`orlopd.plugin.Provider.probe`; ``name`` is the runtime's binary where the config has none.

    A binary that the config names may come later: that it is missing is told when it is to run something.
    """
    if next(Folder.all(context.state), None) is not None:
        return  # Tasks from before are to be found again, whatever became of the binary.
    path = shutil.which(context.config.binary or name)
    if path is not None:
        if name == "crun":
            _check_crun(path)
    elif not context.config.binary:
        raise Skip(f"{name} is not installed: apt-get install {name}")


def _check_crun(path: str) -> None:
    controllers = _controllers()
    if not controllers:
        return
    version = _version(path)
    if version is not None and version < _HYBRID_SINCE:
        raise Skip(
            f"{path} {'.'.join(map(str, version))} starts no container where version 2 of control groups is"
            f" mounted beside version 1 and has controllers ({UNIFIED} has {controllers}): install crun"
            f" {'.'.join(map(str, _HYBRID_SINCE))} or newer, or boot with one version alone"
        )


def _controllers() -> str:
    try:
        return (UNIFIED / "cgroup.controllers").read_text().strip()
    except OSError:
        return ""


def _version(path: str) -> tuple[int, ...] | None:
    """What "crun --version" says; None where it is not understood, and the runtime is to speak for itself."""
    found = re.match(r"crun version (\d+(?:\.\d+)*)", version_of(path))
    return tuple(map(int, found[1].split("."))) if found else None
