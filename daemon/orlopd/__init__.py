"""Orlop's daemon: gRPC services over a core over plugins."""

from __future__ import annotations

import functools


@functools.cache
def version() -> str:
    """The version of the installed daemon."""
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as installed

    try:
        return installed("orlopd")
    except PackageNotFoundError:
        return "0+unknown"


@functools.cache
def revision() -> str:
    """The commit that the daemon runs from; empty when it is not run from a checkout."""
    from pathlib import Path

    git = Path(__file__).resolve().parents[2] / ".git"
    try:
        head = (git / "HEAD").read_text("ascii").strip()
        if not head.startswith("ref: "):
            return head
        ref = head.removeprefix("ref: ")
        loose = git / ref
        if loose.is_file():
            return loose.read_text("ascii").strip()
        for line in (git / "packed-refs").read_text("ascii").splitlines():
            commit, _, name = line.partition(" ")
            if name == ref:
                return commit
    except (OSError, ValueError):
        pass
    return ""
