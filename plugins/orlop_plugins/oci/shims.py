"""A shim as a process: is it the one that was started, is it alive, how to end it."""

from __future__ import annotations

import contextlib
import os
import signal
from dataclasses import dataclass
from pathlib import Path

import anyio

_BOOT = Path("/proc/sys/kernel/random/boot_id")


def identity(pid: int) -> str:
    """What tells a process from all others that have had its pid; "" when there is none.

    Boot id and start time: a pid is used again, these two together are not.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
        fields = stat[stat.rindex(b")") + 2 :].split()
        if fields[0] in (b"Z", b"X"):
            return ""
        return f"{_BOOT.read_text().strip()}:{int(fields[19])}"
    except (OSError, ValueError, IndexError):
        return ""


def inner_address(address: str) -> str:
    """The socket behind that of a shim, for gRPC alone; there is one once somebody has spoken that."""
    return f"{address}g"


def remove_sockets(address: str) -> None:
    """Remove what sockets a dead shim has left."""
    for path in (address, inner_address(address)):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)  # noqa: PTH108


@dataclass(frozen=True, slots=True)
class ShimProcess:
    """A living shim. Owns a pidfd."""

    pid: int
    pidfd: int

    @classmethod
    def find(cls, folder: Path) -> ShimProcess | None:
        """The shim that wrote ``shim.pid``, if it is still the same process."""
        try:
            pid_text, _, known = (folder / "shim.pid").read_text().partition(" ")
            pid = int(pid_text)
            pidfd = os.pidfd_open(pid)
        except (OSError, ValueError):
            return None
        if not known or identity(pid) != known.strip():
            os.close(pidfd)
            return None
        return cls(pid, pidfd)

    async def gone(self) -> None:
        """Return when it has ended. Several may wait."""
        mine = os.dup(self.pidfd)  # the event loop allows one waiter for each descriptor
        try:
            await anyio.wait_readable(mine)
        finally:
            os.close(mine)

    async def end(self, patience: float) -> None:
        """Wait for its end; kill it after ``patience`` seconds."""
        with anyio.move_on_after(patience):
            await self.gone()
            return
        self.kill()
        await self.gone()

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    def close(self) -> None:
        os.close(self.pidfd)
