"""What is done for a mount of each type."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from orlopd.plugin import loop
from orlopd.plugin.errors import FailedPrecondition, InvalidArgument, PermissionDenied
from orlopd.plugin.files import explain
from orlopd.plugin.mount import mount, unmount
from orlopd.plugin.values import Mount


class Plain:
    """What mount(2) does, on a directory of its own."""

    def mount(self, mount: Mount, point: Path) -> Mapping[str, str]:
        point.mkdir(mode=0o700)
        try:
            self.perform(mount, point)
        except BaseException:
            point.rmdir()
            raise
        return {}

    def perform(self, item: Mount, point: Path) -> None:
        """Mount on ``point``, which is there."""
        mount(item, point)

    def unmount(self, point: Path) -> None:
        unmount(point)
        if point.exists():
            point.rmdir()


class Erofs(Plain):
    """An EROFS image in a file or on a device; the file itself where the kernel can, else a loop device."""

    def perform(self, item: Mount, point: Path) -> None:
        bare = replace(item, options=tuple(option for option in item.options if option != "loop"))
        if "ro" not in bare.options:
            bare = replace(bare, options=(*bare.options, "ro"))
        try:
            mount(bare, point)
        except FailedPrecondition:
            mount(replace(bare, options=(*bare.options, "loop")), point)


class Loop:
    """A file as a block device: what is at the place is a link to the device."""

    def mount(self, mount: Mount, point: Path) -> Mapping[str, str]:
        if not mount.source:
            raise InvalidArgument("a loop mount needs a source, the file")
        try:
            device = loop.attach(mount.source, readonly="ro" in mount.options)
        except OSError as error:
            raise explain(error, f"cannot attach {mount.source!r} to a loop device") from error
        try:
            point.symlink_to(device)
        except OSError as error:
            loop.detach(device)
            raise explain(error, f"cannot make {str(point)!r}") from error
        return {"device": device}

    def unmount(self, point: Path) -> None:
        if not point.is_symlink():
            return
        device = str(point.readlink())
        if not device.startswith("/dev/loop"):
            raise PermissionDenied(f"{str(point)!r} leads to {device!r}, which is no loop device")
        try:
            loop.detach(device)
        except OSError as error:
            raise explain(error, f"cannot detach {device}") from error
        point.unlink()
