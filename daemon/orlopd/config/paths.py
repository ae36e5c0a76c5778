"""Where things are kept when nobody says so: the system's places for root, XDG's for everybody else."""

from __future__ import annotations

import os
from pathlib import Path


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
    return _xdg("XDG_RUNTIME_DIR", f"/tmp/orlop-{os.geteuid()}") / "orlop"
