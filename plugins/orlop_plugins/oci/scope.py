"""Giving a shim a systemd scope of its own, so that what is done to the daemon's unit is not done to it."""

from __future__ import annotations

import logging
import shutil
import subprocess
from pathlib import Path

import anyio

log = logging.getLogger(__name__)

RUNNING = Path("/run/systemd/system")
"""There where systemd is the machine's init: sd_booted(3)."""
_DEADLINE = 10.0
_MANAGER = ("org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager")


def name_of(namespace: str, id: str) -> str:
    """The scope of a shim. Identifiers have no character that a unit's name may not have."""
    return f"orlop-shim-{namespace}-{id}.scope"


def available() -> bool:
    """Whether systemd runs here and can be asked. Blocks for a moment."""
    return RUNNING.is_dir() and shutil.which("busctl") is not None


async def enter(pid: int, namespace: str, id: str) -> None:
    """Put a running process into a transient scope (org.freedesktop.systemd1(5), StartTransientUnit).

    systemd forgets the scope when the process has ended, however it ends. What goes wrong is logged and no
    error: the shim works in the daemon's own group too.
    """
    properties = {
        "Description": ("s", f"Orlop's shim of container {id} in {namespace}"),
        "CollectMode": ("s", "inactive-or-failed"),
        "PIDs": ("au", "1", str(pid)),
    }
    words = [word for key, value in properties.items() for word in (key, *value)]
    line = ["busctl", "--system", "--quiet", "call", *_MANAGER, "StartTransientUnit", "ssa(sv)a(sa(sv))"]
    line += [name_of(namespace, id), "fail", str(len(properties)), *words, "0"]
    try:
        with anyio.fail_after(_DEADLINE):
            done = await anyio.run_process(line, check=False, stdin=subprocess.DEVNULL)
    except (OSError, TimeoutError) as error:
        log.warning("the shim of %s/%s stays in the daemon's control group: %s", namespace, id, error)
        return
    if done.returncode and await anyio.Path(f"/proc/{pid}").exists():
        said = done.stderr.decode(errors="replace").strip()[-500:]
        log.warning("the shim of %s/%s stays in the daemon's control group: %s", namespace, id, said)
