"""Where things are kept when nobody says so: the system's places for root, XDG's for everybody else."""

from __future__ import annotations

import os
import stat
from pathlib import Path

RUN_USER = Path("/run/user")


def _xdg(variable: str, fallback: str) -> Path:
    # The XDG base directory specification: a relative path is to be ignored.
    value = os.environ.get(variable, "")
    return Path(value) if value.startswith("/") else Path(fallback).expanduser()


def default_config_dir() -> Path:
    """The folder of ``config.toml`` and ``plugins/``."""
    return Path("/etc/orlop") if os.geteuid() == 0 else _xdg("XDG_CONFIG_HOME", "~/.config") / "orlop"


def default_root() -> Path:
    """The folder of what outlives a reboot."""
    return Path("/var/lib/orlop") if os.geteuid() == 0 else _xdg("XDG_DATA_HOME", "~/.local/share") / "orlop"


def default_state() -> Path:
    """The folder of what a reboot empties: sockets, bundles, pids."""
    if os.geteuid() == 0:
        return Path("/run/orlop")
    return runtime_dir() / "orlop"


def runtime_dir() -> Path:
    """XDG_RUNTIME_DIR, else the folder that a login makes for this user, else one of our own below /tmp.

    orlop's client has the same rule in orlop._address, so that it finds the daemon.
    """
    value = os.environ.get("XDG_RUNTIME_DIR", "")
    if value.startswith("/"):
        return Path(value)
    login = RUN_USER / str(os.geteuid())
    try:
        found = login.lstat()
    except OSError:
        return makeshift_runtime_dir()
    mine = stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()
    return login if mine else makeshift_runtime_dir()


def makeshift_runtime_dir() -> Path:
    """The folder below /tmp. Anybody could have made it: see that it is this user's before it is used."""
    return Path(f"/tmp/orlop-{os.geteuid()}")
