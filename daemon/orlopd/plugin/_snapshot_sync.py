"""Committed snapshots that reach the disk behind their commit.

Writing a layer's files to the disk takes longer than unpacking it, and nobody has to wait for that: a layer
can be unpacked again. So its commit leaves a mark in place of a sync, the mark goes when everything is on
the disk, and a layer that still has one when the machine starts anew is as good as lost, with all that was
made on it. That is never a container's snapshot: one is made only on layers without a mark.

The mark names the run of the machine that has the files in memory, by the kernel's boot id and a file in
the state folder. While both are the same, a daemon that died has lost nothing.
"""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import anyio
from anyio.abc import TaskGroup

from ._snapshot_db import SnapshotDatabase
from .errors import DataLoss, OrlopError
from .files import explain, sync_filesystem

_BOOT = Path("/proc/sys/kernel/random/boot_id")
_WITNESS = "witness"
_FAILED = "failed"
_QUIET_SECONDS = 1.0
_log = logging.getLogger(__name__)


class Behind:
    """What is committed and not on the disk yet. Blocks; threads may call it at once.

    :param folder: where the snapshots' files are
    :param state: a folder that a reboot empties
    """

    def __init__(self, db: SnapshotDatabase, folder: Path, state: Path) -> None:
        self._db = db
        self._folder = folder
        self._lock = threading.Lock()
        self._clean: set[int | None] = set()
        self.mark = f"{_BOOT.read_text().strip()} {_witness(state)}"
        """For what is committed now."""

    def lost(self) -> Sequence[str]:
        """The keys of snapshots that may be incomplete, children first."""
        return self._db.unsynced_but(self.mark)

    def settle(self) -> bool:
        """Have everything on the disk that was committed until now; whether that took a sync of everything.

        :raises OrlopError: the disk did not take it; what was behind is lost then
        """
        with self._lock:
            ids = self._db.unsynced(self.mark)
            if not ids:
                return False
            try:
                sync_filesystem(self._folder)
            except OSError as error:
                # Another try would succeed: the kernel tells of a failed write once, and forgets the data.
                self._db.set_unsynced(ids, _FAILED)
                raise explain(error, "cannot write layers to the disk") from error
            self._db.set_unsynced(ids, None)
            return True

    def prepare(self, parent: int | None, *, layer: bool) -> None:
        """Make sure of what a new snapshot stands on.

        :param layer: it is for the next layer, which may be behind as well
        :raises DataLoss: a snapshot below is lost
        """
        if parent in self._clean:
            return
        marks = self._db.marks(parent)
        if marks == {self.mark} and not layer:
            self.settle()
            marks = self._db.marks(parent)
        if marks - {self.mark}:
            raise DataLoss(
                "a layer below was not written to the disk before the machine went down",
                reason="LAYER_LOST",
                hint="remove the image and pull it again",
            )
        if not marks:
            self._clean.add(parent)


class Settler:
    """Has the layers that are behind written when none has come for a while: that is the least work, and in
    nobody's way.

    :param tasks: owner of the writing
    :param run: runs a job in a thread
    :param settled: a job for afterwards, which nobody waited for at the commits either
    """

    def __init__(
        self,
        behind: Behind,
        tasks: TaskGroup,
        run: Callable[[Callable[[], None]], Awaitable[None]],
        settled: Callable[[], None],
    ) -> None:
        self.behind = behind
        self._tasks = tasks
        self._run = run
        self._settled = settled
        self._late = 0
        self._catching = False

    def notice(self) -> None:
        """Another layer was committed and is not on the disk."""
        self._late += 1
        if not self._catching:
            self._catching = True
            self._tasks.start_soon(self._catch_up)

    async def _catch_up(self) -> None:
        try:
            while self._late:
                seen = self._late
                await anyio.sleep(_QUIET_SECONDS)
                if self._late == seen:
                    self._late = 0
                    await self._run(self.settle)
                    await self._run(self._settled)
        finally:
            self._catching = False

    def settle(self) -> None:
        """Have all of it written now. Blocks; that it does not work goes to the log."""
        try:
            self.behind.settle()
        except OrlopError as error:
            _log.error("%s", error.message)


def _witness(state: Path) -> str:
    path = state / _WITNESS
    try:
        with path.open("x") as file:
            file.write(secrets.token_hex(16))
    except FileExistsError:
        pass
    return path.read_text()
