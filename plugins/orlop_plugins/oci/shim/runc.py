"""The OCI runtime's command line: what is common to runc, crun and kin."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import secrets
import signal
import tempfile
from collections.abc import Sequence
from pathlib import Path

from orlopd.plugin.errors import DeadlineExceeded, FailedPrecondition

from .explain import Failure, missing
from .reaper import Reaper

log = logging.getLogger(__name__)

DEADLINE = 120.0
_LOG_LIMIT = 1 << 20
_STDERR_LIMIT = 64 << 10


class Runc:
    """Runs one runtime's commands for one container.

    :param binary: its name or path
    :param root: its state folder
    :param folder: where its log files go
    """

    def __init__(
        self, reaper: Reaper, binary: str, root: Path, folder: Path, *, systemd_cgroup: bool = False
    ) -> None:
        self._reaper = reaper
        self._folder = folder
        self.binary = binary
        self.root = root
        self._systemd_cgroup = systemd_cgroup

    async def run(
        self,
        command: str,
        *args: str,
        fds: Sequence[int] = (-1, -1, -1),
        output: bool = False,
        deadline: float = DEADLINE,
    ) -> bytes:
        """Run ``BINARY command args…`` and return what it printed, if ``output``.

        :param fds: its standard streams; -1 is /dev/null
        :param deadline: seconds, after which it is killed
        :raises Failure: it failed
        :raises NotFound: there is no such binary
        :raises DeadlineExceeded: it took too long
        """
        name = self._folder / f".runtime-{secrets.token_hex(4)}.json"
        line = [self.binary, "--root", str(self.root), "--log", str(name), "--log-format", "json"]
        if self._systemd_cgroup:
            line.append("--systemd-cgroup")
        line += [command, *args]
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        printed = tempfile.TemporaryFile(dir=self._folder) if output else None  # noqa: SIM115
        try:
            stdin, stdout, stderr = (null if fd < 0 else fd for fd in fds)
            try:
                pid, future = self._reaper.spawn(
                    line,
                    stdin=stdin,
                    stdout=printed.fileno() if printed is not None else stdout,
                    stderr=stderr,
                )
            except FileNotFoundError as error:
                raise missing(self.binary) from error
            except OSError as error:
                raise FailedPrecondition(
                    f"cannot execute OCI runtime {self.binary!r}: {error.strerror}",
                    reason="RUNTIME_NOT_USABLE",
                ) from error
            try:
                async with asyncio.timeout(deadline):
                    ended = await asyncio.shield(future)
            except TimeoutError as error:
                os.kill(pid, signal.SIGKILL)
                raise DeadlineExceeded(
                    f"'{self.binary} {command}' did not end within {deadline:g} s"
                ) from error
            except asyncio.CancelledError:
                os.kill(pid, signal.SIGKILL)
                raise
            if ended.code:
                raise _failure(command, ended.code, line, name)
            if printed is None:
                return b""
            printed.seek(0)
            return printed.read(_LOG_LIMIT)
        finally:
            os.close(null)
            if printed is not None:
                printed.close()
            name.unlink(missing_ok=True)


def _failure(command: str, code: int, line: Sequence[str], path: Path) -> Failure:
    """A command's failure by what the runtime logged: its last error, and all there is."""
    last, told = "", list[str]()
    try:
        with path.open("rb") as file:
            lines = file.read(_LOG_LIMIT).splitlines()
    except OSError:
        lines = []
    for each in lines:
        try:
            entry = json.loads(each)
        except ValueError:
            continue
        if isinstance(entry, dict) and entry.get("msg"):
            said = str(entry["msg"]).strip()
            told.append(f"{entry.get('level')}: {said}")
            if entry.get("level") in ("error", "fatal"):
                last = said
    return Failure(command, code, last, tuple(line), "\n".join(told))
