"""The contract of a mount handler: performs mounts of one type for clients of the Mounts service.

A client that cannot mount, or that wants mounts that outlive it, hands the daemon a stack of mounts. Each is
performed by the handler whose id is the mount's type, on a place of its own, and later ones may refer to
earlier ones. What no handler takes is left to the client.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from .provider import Kind
from .values import Mount


class MountHandler(Protocol):
    """Mounts of one type. Both methods run in threads."""

    def mount(self, mount: Mount, point: Path) -> Mapping[str, str]:
        """Perform ``mount`` at ``point``, whose parent exists and is private; what is to be at ``point``
        itself, a directory mostly, is the handler's to make.

        :returns: what is worth knowing of it, for whoever asks
        :raises OrlopError: it does not work; nothing is left then
        """
        ...

    def unmount(self, point: Path) -> None:
        """Undo it, also after a crash in the middle of it. Nothing there is no error.

        :raises FailedPrecondition: it is in use
        """
        ...


MOUNT_HANDLER = Kind[MountHandler]("io.containerd.mount-handler.v1", "mount_handler")
