"""The daemon's side of the workers."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import anyio
import anyio.abc

from orlopd.plugin.content import ArrivingBlob
from orlopd.plugin.diff import Progress
from orlopd.plugin.errors import Internal, OrlopError, Unavailable

from .jobs import AnyJob, Outcome, decode_error, encode_job
from .turns import Turns

_END_SECONDS = 5.0
_HELLO_SECONDS = 30.0
_LINE_LIMIT = 1 << 20


class WorkerPool:
    """Runs jobs, each in a process of its own, some at a time.

    :param workers: how many at a time
    :param zygote: the module to run for the process that forks them, see :func:`.zygote.main`
    """

    def __init__(self, workers: int, log: logging.Logger, zygote: str = f"{__package__}.zygote") -> None:
        self._zygote = zygote
        self._log = log
        self._turns = Turns(workers)
        self._starting = anyio.Lock()
        self._control: socket.socket | None = None
        self._process: anyio.abc.Process | None = None

    async def start(self) -> None:
        """Start the process that forks workers; it is ready when the first job comes."""
        async with self._starting:
            if self._control is not None:
                return
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            ours.setblocking(False)
            command = [sys.executable, "-P", "-m", self._zygote, str(theirs.fileno())]
            with theirs:
                try:
                    self._process = await anyio.open_process(
                        command,
                        stdin=subprocess.DEVNULL,
                        stdout=subprocess.DEVNULL,
                        stderr=None,
                        pass_fds=(theirs.fileno(),),
                        start_new_session=True,
                    )
                except OSError as error:
                    ours.close()
                    raise Unavailable(f"cannot start the unpack workers: {error.strerror}") from error
            self._control = ours

    async def aclose(self) -> None:
        """End the workers."""
        control, self._control = self._control, None
        process, self._process = self._process, None
        if control is not None:
            control.close()
        if process is not None:
            with anyio.CancelScope(shield=True):
                with anyio.move_on_after(_END_SECONDS):
                    await process.wait()
                if process.returncode is None:
                    process.kill()
                    await process.wait()

    async def run(
        self,
        job: AnyJob,
        fds: Sequence[int] = (),
        *,
        weight: int = 0,
        progress: Progress | None = None,
        arriving: ArrivingBlob | None = None,
    ) -> Outcome:
        """Do a job. When cancelled, the worker is dead before this returns.

        :param job: one that the workers know
        :param weight: the bytes of the blob; the largest goes first
        :param fds: descriptors the job needs; they stay the caller's
        :param arriving: a blob of which the worker is told how far it is
        :raises OrlopError: what the worker found, or why the blob does not arrive
        :raises Unavailable: the worker died
        """
        async with self._turns.turn(weight):
            connection = await self._connect(fds)
            with connection:
                worker = await self._hello(connection)
                try:
                    await _send(connection, encode_job(job))
                    if arriving is None:
                        return await self._answer(connection, progress)
                    return await self._follow(connection, progress, arriving)
                finally:
                    with anyio.CancelScope(shield=True):
                        await _end(worker)

    async def _connect(self, fds: Sequence[int]) -> socket.socket:
        for attempt in (1, 2):
            await self.start()
            ours, theirs = socket.socketpair()
            ours.setblocking(False)
            with theirs:
                try:
                    await self._ask([theirs.fileno(), *fds])
                    return ours
                except OSError as error:
                    ours.close()
                    self._log.warning("the unpack workers are gone (%s), starting them again", error)
                    await self.aclose()
                    if attempt == 2:
                        raise Unavailable("the unpack workers do not start") from error
        raise AssertionError

    async def _ask(self, fds: Sequence[int]) -> None:
        while True:
            if self._control is None:
                raise BrokenPipeError
            try:
                socket.send_fds(self._control, [b"j"], fds)
                return
            except BlockingIOError:
                await anyio.wait_writable(self._control)

    async def _hello(self, connection: socket.socket) -> int:
        """The worker's pidfd, by which it can be ended without hitting anybody else."""
        # Shielded: a worker that is on its way must not be lost sight of.
        with anyio.CancelScope(shield=True), anyio.move_on_after(_HELLO_SECONDS):
            while True:
                await anyio.wait_readable(connection)
                try:
                    data, fds, _, _ = socket.recv_fds(connection, 1, 1, socket.MSG_CMSG_CLOEXEC)
                except BlockingIOError:
                    continue
                except OSError:
                    break
                if not data or not fds:
                    break
                return fds[0]
        raise Unavailable("the unpack worker did not start", reason="WORKER_DIED")

    async def _follow(
        self, connection: socket.socket, progress: Progress | None, arriving: ArrivingBlob
    ) -> Outcome:
        outcomes: list[Outcome] = []
        failures: list[OrlopError] = []

        async def tell() -> None:
            there = -1
            try:
                while there < arriving.size:
                    there = await arriving.wait(there)
                    await _send(connection, b"%d\n" % there)
            except OrlopError as error:
                failures.append(error)
                group.cancel_scope.cancel()

        async with anyio.create_task_group() as group:
            group.start_soon(tell)
            try:
                outcomes.append(await self._answer(connection, progress))
            except OrlopError as error:
                failures.append(error)
            group.cancel_scope.cancel()
        if failures:
            raise failures[0]
        return outcomes[0]

    async def _answer(self, connection: socket.socket, progress: Progress | None) -> Outcome:
        held = b""
        while True:
            try:
                await anyio.wait_readable(connection)
                data = connection.recv(65536)
            except BlockingIOError:
                continue
            except OSError:
                data = b""
            if not data or len(held) > _LINE_LIMIT:
                raise Unavailable(
                    "the unpack worker ended unexpectedly",
                    reason="WORKER_DIED",
                    hint="the kernel log may tell whether memory ran out",
                )
            *lines, held = (held + data).split(b"\n")
            for line in lines:
                answer: dict[str, Any] = json.loads(line)
                if "progress" in answer:
                    if progress is not None:
                        progress(answer["progress"])
                elif "done" in answer:
                    return Outcome(**answer["done"])
                else:
                    raise self._failure(answer["error"])

    def _failure(self, data: dict[str, Any]) -> OrlopError:
        error = decode_error(data)
        if isinstance(error, Internal):
            self._log.error("an unpack worker failed: %s", error.message)
        return error


async def _send(sock: socket.socket, data: bytes) -> None:
    view = memoryview(data)
    while view:
        try:
            view = view[sock.send(view) :]
        except BlockingIOError:
            await anyio.wait_writable(sock)
        except OSError:
            return  # it died; reading tells


async def _end(worker: int) -> None:
    """Have the worker gone: it ends by itself after its answer, and is killed before."""
    try:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(worker, signal.SIGKILL)
        with anyio.move_on_after(_END_SECONDS):
            await anyio.wait_readable(worker)
    finally:
        os.close(worker)
