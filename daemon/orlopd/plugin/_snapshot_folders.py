"""The folders behind :mod:`orlopd.plugin.snapshotter_base`: made as a whole, deleted by way of the trash."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from .files import explain, spread_folder, sync_folder

_NEW = "new-"
_log = logging.getLogger(__name__)


class Folders:
    """One folder for each number. Blocks; threads may call it at once.

    :param root: where to keep them
    :param drop: deletes one with what belongs to it
    """

    def __init__(self, root: Path, drop: Callable[[Path], None]) -> None:
        self.top = root / "snapshots"
        self._trash = root / "trash"
        for path in (self.top, self._trash):
            path.mkdir(mode=0o700, exist_ok=True)
        spread_folder(self.top)
        self._drop = drop
        self._lock = threading.RLock()
        self._dropping: set[Path] = set()

    def path(self, number: int) -> Path:
        """Where the folder of this number is, if it is there."""
        return self.top / str(number)

    def last(self) -> int:
        """The highest number that is in use as a name; 0 for none."""
        there = (*self.top.iterdir(), *self._trash.iterdir())
        return max((number for path in there if (number := _number(path)) is not None), default=0)

    def make(self, number: int, fill: Callable[[Path], None]) -> None:
        """Make a folder and have it filled: a crash leaves all that ``fill`` made, or nothing.

        :raises OSError: it cannot be made; nothing is left of it
        """
        new = self.top / f"{_NEW}{number}"
        try:
            new.mkdir(mode=0o700)
            fill(new)
            new.rename(self.path(number))
        except BaseException:
            self.discard(new)
            raise

    def make_again(self, number: int, fill: Callable[[Path], None]) -> None:
        """As :meth:`make`, if it is not there."""
        with self._lock:  # once
            if not self.path(number).exists():
                self.make(number, fill)

    def sync(self, number: int) -> None:
        """Have a folder's name, and the names in it, on the disk."""
        sync_folder(self.path(number))
        sync_folder(self.top)

    def discard(self, path: Path) -> None:
        """Take a folder out of the way, and delete it if that works now."""
        trash = self._trash / path.name
        try:
            with self._lock:
                if path.exists():
                    path.rename(trash)
                elif not trash.exists():
                    return
            self._delete(trash)
        except OSError as error:
            # Not the caller's trouble: the snapshot is gone; empty() tries again.
            _log.warning("left %s for the next cleanup: %s", trash, error)

    def orphans(self, known: Collection[int], making: Collection[int]) -> Sequence[Path]:
        """Folders that are not of a number that is ``known`` or in the making."""
        with self._lock:
            return [
                path
                for path in self.top.iterdir()
                if (number := _number(path)) not in making
                and (number not in known or path.name.startswith(_NEW))
            ]

    def discarded(self) -> Sequence[Path]:
        """What is in the trash."""
        return list(self._trash.iterdir())

    def discard_orphans(self, known: Collection[int], making: Collection[int]) -> None:
        """Take :meth:`orphans` out of the way. :raises OrlopError: that does not work"""
        with self._lock:
            for path in self.orphans(known, making):
                try:
                    path.rename(self._trash / path.name)
                except OSError as error:
                    raise explain(error, f"cannot move {str(path)!r} away") from error

    def empty(self) -> None:
        """Delete what is in the trash. :raises OrlopError: something cannot be deleted"""
        for path in self.discarded():
            try:
                self._delete(path)
            except OSError as error:
                raise explain(error, f"cannot delete {str(path)!r}") from error

    def _delete(self, trash: Path) -> None:
        # One thread for each: a removal and a cleanup would stumble over each other's steps.
        with self._lock:
            if trash in self._dropping:
                return
            self._dropping.add(trash)
        try:
            self._drop(trash)
        finally:
            with self._lock:
                self._dropping.discard(trash)


def _number(path: Path) -> int | None:
    name = path.name.removeprefix(_NEW)
    return int(name) if name.isdecimal() else None
