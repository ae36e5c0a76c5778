"""A shim's life: become a process of one's own, serve, end."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import logging
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import grpc.aio
from setproctitle import setproctitle, setthreadtitle

from orlop_protos.containerd.task.v3 import shim_pb2_grpc as task_grpc
from orlop_protos.orlop.shim.v1 import shim_pb2_grpc as api_grpc

from ...ttrpc import TtrpcServer
from .. import journal
from ..shims import identity, inner_address
from .answer import methods
from .door import Door, bind, remove
from .logfile import LogKeeping
from .publish import publish
from .reaper import Reaper
from .service import Shim, ShimService, TaskService

log = logging.getLogger(__name__)

LOG = "shim.log"
_PR_SET_CHILD_SUBREAPER = 36
_IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE)
_libc = ctypes.CDLL(None, use_errno=True)
_GRACE = 0.5
_LAST_EVENTS = 5.0
_IDLE = 60.0
"""Seconds after which a shim that never got a container ends: who started it must be dead."""
_MAX_MESSAGE = 16 << 20
_OPTIONS = (
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", _MAX_MESSAGE),
    ("grpc.max_send_message_length", _MAX_MESSAGE),
)


@dataclass(frozen=True, slots=True)
class Order:
    """What a shim is started for.

    :param bundle: the task's folder, which the shim writes its journal and log to
    :param address: the path of its socket
    :param root: the OCI runtime's state folder
    :param stall: seconds that an attached client may keep a container waiting
    :param log_size: bytes after which a log that the shim writes is put aside; 0 for never
    :param log_files: how many of those put aside are kept
    :param log_format: what such a log is written in, "cri" or "json"
    :param protocol: what the socket speaks: "grpc", "ttrpc" or "both"
    :param publish: the ttrpc socket of a containerd that wants the events; "" where somebody reads them here
    """

    namespace: str
    id: str
    bundle: str
    address: str
    root: str
    stall: float = 10.0
    log_size: int = 0
    log_files: int = 0
    log_format: str = "cri"
    protocol: str = "grpc"
    publish: str = ""

    def pack(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    @classmethod
    def unpack(cls, data: bytes) -> Order:
        return cls(**json.loads(data))


def serve(order: Order, ready: int) -> None:
    """Be the shim of ``order`` until it is shut down. Does not return.

    The process is a fresh fork or interpreter with nothing running. ``ready`` is a descriptor that gets one
    line of JSON when the socket serves (or why not) and is closed.
    """
    code = 1
    try:
        settle(order, ready)
        # What ps shows: containerd's words for whose shim this is.
        setproctitle(f"orlop-shim -namespace {order.namespace} -id {order.id} -address {order.address}")
        setthreadtitle("orlop-shim")
        _write_pid(order.bundle)
        asyncio.run(_run(order, ready))
        code = 0
    except BaseException as error:
        log.exception("the shim ends")
        with contextlib.suppress(OSError):
            tell(ready, error=f"{type(error).__name__}: {error}")
    finally:
        logging.shutdown()
        os._exit(code)  # nothing of the parent's may run at exit


def prepare() -> None:
    """Do what any shim needs and what a fork inherits, so that it is done once for all of them."""
    os.chdir("/")
    os.umask(0o022)
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", closefd=False, buffering=1)  # noqa: SIM115
    sys.stderr = open(2, "w", closefd=False, buffering=1)  # noqa: SIM115
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", force=True
    )


def settle(order: Order, ready: int) -> None:
    """Leave everything behind that ties this process to who started it, except ``ready``.

    The process has called :func:`prepare`, or its parent has.
    """
    with contextlib.suppress(PermissionError):  # leader of a session already
        os.setsid()
    null = os.open("/dev/null", os.O_RDONLY)
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
    out = os.open(f"{order.bundle}/{LOG}", flags, 0o600)
    os.dup2(null, 0)
    os.dup2(out, 1)
    os.dup2(out, 2)
    os.closerange(3, ready)
    os.closerange(ready + 1, _most_descriptors())
    os.set_inheritable(ready, False)
    if _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "cannot become a subreaper")


def _most_descriptors() -> int:
    return max(map(int, os.listdir("/proc/self/fd"))) + 1  # noqa: PTH208


def tell(ready: int, **fields: Any) -> None:
    """Answer whoever waits for this shim, once."""
    os.write(ready, json.dumps(fields).encode() + b"\n")
    os.close(ready)


def _write_pid(bundle: str) -> None:
    """Say who we are, so that a later daemon finds us, and knows us from whoever has our pid then."""
    fresh = f"{bundle}/.shim.pid.new"
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    os.write(fd, f"{os.getpid()} {identity(os.getpid())}".encode())
    os.close(fd)
    os.rename(fresh, f"{bundle}/shim.pid")  # noqa: PTH104


async def _run(order: Order, ready: int) -> None:
    loop = asyncio.get_running_loop()
    reaper = Reaper()
    reaper.install()
    bundle = Path(order.bundle)
    shim = Shim(
        order.namespace,
        Path(order.root),
        order.stall,
        reaper,
        journal.Journal(bundle / journal.FILE),
        LogKeeping(order.log_size, order.log_files, order.log_format),
    )
    async with _serving(shim, order):
        loop.call_later(_IDLE, shim.end_if_unused)
        tell(ready, pid=os.getpid())
        if order.publish:
            await _publish_until(shim, order)
        else:
            await shim.stop.wait()


@contextlib.asynccontextmanager
async def _serving(shim: Shim, order: Order) -> AsyncIterator[None]:
    """Answer on the socket until the context is left."""
    remove(order.address)
    inner = inner_address(order.address)

    async def grpc_address() -> str:
        return await door.grpc_address() if door is not None else order.address

    def grpc_server() -> grpc.aio.Server:
        server = grpc.aio.server(options=_OPTIONS)
        task_grpc.add_TaskServicer_to_server(tasks, server)
        api_grpc.add_ShimServiceServicer_to_server(own, server)
        return server

    door: Door | None = None
    tasks, own = TaskService(shim), ShimService(shim, grpc_address)
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(remove, order.address)
        if order.protocol == "grpc":
            server = grpc_server()
            bind(server, order.address)
            await server.start()
            stack.push_async_callback(server.stop, _GRACE)
        else:
            listener = _listener(order.address)
            if order.protocol == "ttrpc":
                await stack.enter_async_context(TtrpcServer(listener, methods(tasks)))
            else:
                ttrpc = await stack.enter_async_context(TtrpcServer(None, methods(tasks, own), _GRACE))
                door = await stack.enter_async_context(Door(listener, ttrpc, grpc_server, inner))
        yield


def _listener(path: str) -> socket.socket:
    before = os.umask(0o177)  # the socket's mode is 0600 from its first moment
    try:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(path)
        listener.listen(64)
        return listener
    finally:
        os.umask(before)


async def _publish_until(shim: Shim, order: Order) -> None:
    """Forward events until the shim is told to stop, and then for a moment what is left."""
    publisher = asyncio.create_task(publish(shim.journal, order.namespace, order.publish))
    try:
        await shim.stop.wait()
        await asyncio.wait([publisher], timeout=_LAST_EVENTS)
    finally:
        publisher.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await publisher
