"""What the runtime kit's tasks are made of."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from orlopd.plugin.runtime import Runtime

Opened = Callable[[Path], AbstractAsyncContextManager[Runtime]]
"""Makes a runtime that keeps its state in the folder it is given, for the time of a block."""

TAG = f"orlop-kit-{os.getpid()}"
"""What the names of this process's control groups begin with."""
_APPLETS = ("sh", "cat", "sleep", "true", "stty")
_ENVIRONMENT = ["PATH=/bin", "TERM=xterm"]


def busybox(folder: Path) -> Path:
    """A root filesystem that has a shell, made of the machine's static busybox."""
    program = shutil.which("busybox")
    if program is None:
        pytest.fail("the kit needs a static busybox on this machine")
    for name in ("bin", "dev", "proc", "sys", "tmp"):
        (folder / name).mkdir(parents=True)
    shutil.copy(program, folder / "bin/busybox")
    for applet in _APPLETS:
        (folder / "bin" / applet).symlink_to("busybox")
    return folder


def spec_of(*args: str, terminal: bool = False) -> bytes:
    """An OCI runtime spec that runs ``args`` on the root filesystem of its bundle."""
    mounts: list[dict[str, Any]] = [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
        {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["newinstance"]},
    ]
    return json.dumps(
        {
            "ociVersion": "1.0.2",
            "root": {"path": "rootfs"},
            "process": {**_process(args), "terminal": terminal},
            "mounts": mounts,
            "linux": {
                "cgroupsPath": f"/{TAG}-{secrets.token_hex(4)}",
                "resources": {"devices": [{"allow": False, "access": "rwm"}]},
                "namespaces": [{"type": kind} for kind in ("mount", "uts", "ipc", "network", "pid")],
            },
        }
    ).encode()


def process_of(*args: str) -> bytes:
    """An OCI process for an exec."""
    return json.dumps(_process(args)).encode()


def _process(args: tuple[str, ...]) -> dict[str, Any]:
    return {"args": args, "cwd": "/", "env": _ENVIRONMENT, "user": {"uid": 0, "gid": 0}}
