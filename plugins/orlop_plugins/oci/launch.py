"""Starting shims: through the fork server, or by an interpreter where that fails."""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from typing import Any

import anyio
import anyio.to_thread

from orlopd.plugin.errors import DeadlineExceeded, Internal

from .shim.serve import Order

log = logging.getLogger(__name__)

_KEPT = ("PATH", "HOME", "LANG", "TMPDIR", "XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS", "PYTHONPATH")


class Launcher:
    """Starts shims that belong to nobody. One fork server at most, started when first needed or by
    warm_up()."""

    def __init__(self, deadline: float, *, fork_server: bool, label: str) -> None:
        """:param label: what the fork server's command line shows, to tell one daemon's from another's"""
        self._deadline = deadline
        self._label = label
        self._wanted = fork_server
        self._zygote: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._starting = threading.Lock()

    async def warm_up(self) -> None:
        """Start the fork server; it imports while others do something useful."""
        if self._wanted:
            await anyio.to_thread.run_sync(self._start)

    async def launch(self, order: Order) -> int:
        """Start a shim; its pid, when it serves.

        :raises DeadlineExceeded: it does not serve in time
        :raises Internal: it cannot be started
        """
        if self._wanted:
            for _ in range(2):  # the second with a new fork server
                answer = await self._fork(order)
                if answer is not None:
                    return _pid(answer)
                log.warning("the fork server does not answer; starting another")
                await anyio.to_thread.run_sync(self._stop)
        return _pid(await self._interpret(order))

    async def aclose(self) -> None:
        """End the fork server. Shims live on."""
        await anyio.to_thread.run_sync(self._stop)

    async def _fork(self, order: Order) -> Mapping[str, Any] | None:
        await anyio.to_thread.run_sync(self._start) if self._control is None else None
        control = self._control
        if control is None:
            return None
        reading, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            try:
                socket.send_fds(control, [order.pack()], [writing])
            except OSError:
                return None
            finally:
                os.close(writing)
            return await self._answer(reading)
        finally:
            os.close(reading)

    async def _interpret(self, order: Order) -> Mapping[str, Any]:
        reading, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            try:
                await anyio.to_thread.run_sync(_start_interpreter, order, writing)
            finally:
                os.close(writing)
            answer = await self._answer(reading)
        finally:
            os.close(reading)
        if answer is None:
            raise Internal(
                "the shim ended before it served", hint="its log is in the task's folder, shim.log"
            )
        return answer

    async def _answer(self, reading: int) -> Mapping[str, Any] | None:
        data = b""
        try:
            with anyio.fail_after(self._deadline):
                while not data.endswith(b"\n"):
                    await anyio.wait_readable(reading)
                    piece = os.read(reading, 4096)
                    if not piece:
                        return None
                    data += piece
        except TimeoutError as error:
            raise DeadlineExceeded(f"the shim did not serve within {self._deadline:g} s") from error
        return json.loads(data)

    def _start(self) -> None:
        with self._starting:
            if self._control is not None:
                return
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with theirs:
                ours.setblocking(False)
                fd = theirs.fileno()
                self._zygote = subprocess.Popen(
                    [sys.executable, "-P", "-m", "orlop_plugins.oci.shim.zygote", str(fd), self._label],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    pass_fds=[fd],
                    env=environment(),
                    cwd="/",
                    start_new_session=True,
                )
            self._control = ours

    def _stop(self) -> None:
        with self._starting:
            if self._control is not None:
                self._control.close()
                self._control = None
            if self._zygote is not None:
                try:
                    self._zygote.wait(2)
                except subprocess.TimeoutExpired:
                    self._zygote.kill()
                    self._zygote.wait()
                self._zygote = None


def environment() -> dict[str, str]:
    """What a shim, and the runtime that it starts, see of the daemon's environment."""
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    return kept | {"GRPC_ENABLE_FORK_SUPPORT": "0", "MALLOC_ARENA_MAX": "1"}


def _start_interpreter(order: Order, ready: int) -> None:
    reading, writing = os.pipe2(os.O_CLOEXEC)
    try:
        with os.fdopen(writing, "wb") as file:
            file.write(order.pack())  # less than a pipe holds
        fds = (reading, ready)
        subprocess.run(
            [
                sys.executable,
                "-P",  # what lies in the root folder is nobody's module
                "-m",
                "orlop_plugins.oci.shim.main",
                "--order",
                str(reading),
                "--ready",
                str(ready),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=fds,
            env=environment(),
            cwd="/",
            check=False,
            timeout=60,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Internal(f"cannot start a shim: {error}") from error
    finally:
        os.close(reading)


def _pid(answer: Mapping[str, Any]) -> int:
    if "pid" not in answer:
        raise Internal(f"the shim cannot serve: {answer.get('error', 'no reason given')}")
    return int(answer["pid"])
