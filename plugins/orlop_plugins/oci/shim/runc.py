"""The OCI runtime's command line: what is common to runc, crun and kin."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import secrets
import signal
import tempfile
from collections.abc import Sequence
from pathlib import Path

from orlopd.plugin.errors import DeadlineExceeded, FailedPrecondition, NotFound, OrlopError

from .reaper import Reaper

log = logging.getLogger(__name__)

DEADLINE = 120.0
_LOG_LIMIT = 1 << 20
_STDERR_LIMIT = 64 << 10

# How the runtimes say that a program is not there, or may not be executed: runc's "exec: NAME: …", crun's
# own.
_NOT_FOUND = re.compile(
    r"executable file [`'\"\w./-]* ?not found"
    r'|exec:? "[^"]*": (?:stat [^:]*: )?no such file or directory'
    r"|exec [^:]+: no such file or directory"
    r"|executable file `[^`]*` not found"
)
_NOT_EXECUTABLE = re.compile(
    r'exec:? "[^"]*":? (?:permission denied|is a directory)'
    r"|exec [^:]+: (?:permission denied|exec format error|is a directory)"
    r"|exec format error"
    r"|open executable: (?:permission denied|operation not permitted)"
    r"|executable file `[^`]*`.*permission denied",
    re.IGNORECASE,
)
_NO_FOLDER = re.compile(r"chdir to .*no such file or directory|chdir.*`.*`: No such file", re.IGNORECASE)


class Failure(Exception):
    """A command failed; ``message`` is its last error."""

    def __init__(self, command: str, code: int, message: str) -> None:
        super().__init__(command, code, message)
        self.command = command
        self.code = code
        self.message = message


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
                raise Failure(command, ended.code, _last_error(name))
            if printed is None:
                return b""
            printed.seek(0)
            return printed.read(_LOG_LIMIT)
        finally:
            os.close(null)
            if printed is not None:
                printed.close()
            name.unlink(missing_ok=True)


def missing(binary: str) -> NotFound:
    """The error for a runtime that is not installed."""
    where = "is not there, or no program" if "/" in binary else "not found in $PATH"
    return NotFound(
        f"OCI runtime {binary!r} {where}",
        reason="RUNTIME_NOT_FOUND",
        resource=f"runtime {binary}",
        hint=f"install it (apt install {Path(binary).name}) or set its path in the runtime's config section",
    )


def explain(failure: Failure, what: str, program: str = "") -> OrlopError:
    """A failed command as an error of the house.

    :param what: begins the message, as containerd's shim has it: ``OCI runtime create failed``
    :param program: the program that the process was to run
    """
    said = failure.message or f"exit status {failure.code}"
    message = f"{what}: {said}"
    name = f" {program!r}" if program else ""
    if _NOT_EXECUTABLE.search(said):
        return FailedPrecondition(
            message,
            reason="COMMAND_NOT_EXECUTABLE",
            hint=f"the program{name} cannot be executed in the container",
        )
    if _NOT_FOUND.search(said):
        return FailedPrecondition(
            message, reason="COMMAND_NOT_FOUND", hint=f"the container's filesystem has no program{name}"
        )
    if _NO_FOLDER.search(said):
        return FailedPrecondition(
            message, reason="RUNTIME_FAILED", hint="the container's filesystem has no such working directory"
        )
    return FailedPrecondition(
        message, reason="RUNTIME_FAILED", hint=f"'{failure.command}' of the OCI runtime failed"
    )


def _last_error(path: Path) -> str:
    try:
        with path.open("rb") as file:
            lines = file.read(_LOG_LIMIT).splitlines()
    except OSError:
        return ""
    last = ""
    for line in lines:
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and entry.get("level") in ("error", "fatal") and entry.get("msg"):
            last = str(entry["msg"]).strip()
    return last
