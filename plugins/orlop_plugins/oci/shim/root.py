"""A container's root filesystem in its bundle, where the shim has to mount it."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Sequence
from pathlib import Path

from orlopd.plugin import mount
from orlopd.plugin.errors import FailedPrecondition
from orlopd.plugin.values import Mount

from .aside import aside


class Root:
    """The mounts of one container.

    :param point: where they go
    """

    def __init__(self, point: Path) -> None:
        self._point = point
        self._mounted = False

    async def mount(self, mounts: Sequence[Mount]) -> None:
        """Mount them, one on the other; all or none. Nothing to mount is no work."""
        if mounts:
            self._point.mkdir(mode=0o711, exist_ok=True)
            await aside(mount.mount_all, mounts, self._point)
            self._mounted = True

    async def unmount(self) -> None:
        """Take away what was mounted."""
        if not self._mounted:
            return
        try:
            await aside(mount.unmount, self._point)
        except FailedPrecondition:  # in use, by a process of the host perhaps
            await aside(functools.partial(mount.unmount, self._point, detach=True))
        self._mounted = False
        with contextlib.suppress(OSError):
            self._point.rmdir()
