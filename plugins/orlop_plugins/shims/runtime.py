"""Tasks of foreign shims, and where those send their events."""

from __future__ import annotations

import json
import logging
import os
import socket
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
from google.protobuf.empty_pb2 import Empty

from orlop_protos.containerd.runc.v1 import oci_pb2
from orlop_protos.containerd.services.events.ttrpc.v1 import events_pb2
from orlopd.plugin import Context
from orlopd.plugin.errors import OrlopError
from orlopd.plugin.runtime import Task, TaskSpec, TaskState
from orlopd.plugin.values import TypedBytes

from ..oci import journal, specs
from ..oci.cleanup import remove_empty_groups
from ..oci.folder import Folder, check_id
from ..oci.shimlog import keep, pointing
from ..ttrpc import Handler, TtrpcServer
from .calls import Calls, connect
from .config import ShimConfig
from .log import ShimLog
from .program import Endpoint, Program, find
from .task import ForeignTask, refuse_attach

log = logging.getLogger(__name__)

_RECORD = "shim.json"
_EVENTS = ("containerd.services.events.ttrpc.v1.Events", "Forward")
_CONNECT = 10.0


@dataclass(frozen=True, slots=True)
class _Record:
    """What a later daemon must know of a task."""

    namespace: str
    id: str
    binary: str
    endpoint: Endpoint


class ShimRuntime:
    """Tasks under shims of others. See :class:`orlopd.plugin.runtime.Runtime`."""

    def __init__(self, config: ShimConfig, state: Path, context: Context) -> None:
        self._config = config
        self._state = state
        self._group = context.tasks
        self._tasks: dict[tuple[str, str], ForeignTask] = {}
        self._namespaces: set[str] = set()
        self._stack = AsyncExitStack()

    @classmethod
    async def open(cls, context: Context) -> ShimRuntime:
        """Make it; from now on shims may send events."""
        runtime = cls(context.config, context.state, context)
        listener = await anyio.to_thread.run_sync(_listen, runtime._events)
        server = TtrpcServer(listener, {_EVENTS: Handler(events_pb2.ForwardRequest, runtime._forwarded)})
        await runtime._stack.enter_async_context(server)
        return runtime

    @property
    def _events(self) -> Path:
        return self._state / "events.sock.ttrpc"

    async def create(self, spec: TaskSpec) -> Task:
        check_id("namespace", spec.namespace)
        check_id("task id", spec.id)
        binary = await anyio.to_thread.run_sync(find, self._config.binary or spec.runtime)
        refuse_attach(spec.stdio)
        folder = await anyio.to_thread.run_sync(Folder.make, self._state, spec.namespace, spec.id)
        program = Program(binary, spec.namespace, spec.id, folder.path, str(self._events))
        said = ShimLog(spec.id)
        made: ForeignTask | None = None
        key = (spec.namespace, spec.id)
        try:
            await anyio.to_thread.run_sync(_fill, folder, spec)
            said.open(folder.path / "log")
            spec = replace(spec, options=spec.options or self._own_options(binary))
            endpoint = await program.start(spec.options, self._config.start_deadline)
            record = _Record(spec.namespace, spec.id, binary, endpoint)
            await anyio.to_thread.run_sync(folder.write, _RECORD, json.dumps(asdict(record)).encode())
            calls = await connect(endpoint, spec.namespace, _CONNECT)
            made = self._tasks[key] = ForeignTask(program, folder, calls, endpoint.address, said)
            await made.make(spec)
        except BaseException as error:
            self._tasks.pop(key, None)
            kept: Path | None = None
            if isinstance(error, OrlopError):
                with anyio.CancelScope(shield=True):
                    said.close()
                    kept = await keep(folder.path, self._state, f"{spec.namespace}.{spec.id}", error)
            with anyio.CancelScope(shield=True):
                if made is None:
                    made = ForeignTask(program, folder, None, "", said)
                await made.abandon()
            if kept is not None and isinstance(error, OrlopError):
                raise pointing(error, kept) from error
            raise
        self._group.start_soon(self._follow, made)
        return made

    async def recover(self) -> Sequence[Task]:
        found: list[Task] = []
        for folder in await anyio.to_thread.run_sync(lambda: list(Folder.all(self._state))):
            try:
                item = await self._recover(folder)
            except (OrlopError, OSError):
                log.exception("cannot recover the task in %s", folder.path)
                continue
            if item is not None:
                found.append(item)
                self._group.start_soon(self._follow, item)
        return found

    async def aclose(self) -> None:
        """Let go of all shims, which live on."""
        for item in list(self._tasks.values()):
            await item.aclose()
        await self._stack.aclose()
        await anyio.to_thread.run_sync(remove_empty_groups, self._namespaces)

    def _own_options(self, binary: str) -> TypedBytes | None:
        """Options where nobody gave any: runc's shim keeps its state with that of every containerd else."""
        if not Path(binary).name.startswith("containerd-shim-runc-"):
            return None
        options = oci_pb2.Options(root=str(self._state / "runc"))
        return TypedBytes(options.DESCRIPTOR.full_name, options.SerializeToString())

    async def _recover(self, folder: Folder) -> ForeignTask | None:
        record = await anyio.to_thread.run_sync(_read, folder)
        if record is None:
            await anyio.to_thread.run_sync(folder.remove)
            return None
        program = Program(record.binary, record.namespace, record.id, folder.path, str(self._events))
        said = ShimLog(record.id)
        calls: Calls | None = None
        try:
            calls = await connect(record.endpoint, record.namespace, _CONNECT)
            said.open(folder.path / "log")
        except OrlopError as error:
            log.info("the shim of task %s/%s: %s", record.namespace, record.id, error)
        item = ForeignTask(program, folder, calls, record.endpoint.address, said)
        if not item.history.has("/tasks/create"):
            await item.abandon()
            return None
        self._tasks[record.namespace, record.id] = item
        if calls is None:
            await item.bury()
        else:
            await _note_end(item)
        return item

    async def _follow(self, item: ForeignTask) -> None:
        try:
            self._namespaces.add(item.namespace)
            await item.watch()
            await item.deleted.wait()
        finally:
            self._tasks.pop((item.namespace, item.id), None)

    async def _forwarded(self, request: Any) -> Empty:
        envelope = request.envelope
        item = self._tasks.get((envelope.namespace, _container(envelope)))
        if item is None:
            log.debug("event %s of a task that is not here", envelope.topic)
        else:
            item.history.take(envelope)
        return Empty()


async def _note_end(item: ForeignTask) -> None:
    """Tell of an end that came while no daemon listened."""
    try:
        status = await item.status()
    except OrlopError as error:
        log.warning("the shim of task %s/%s does not say how it is: %s", item.namespace, item.id, error)
        return
    if status.state is TaskState.STOPPED and status.exit is not None:
        item.history.end(status.pid, status.exit)


def _container(envelope: Any) -> str:
    """The container that an event is about: the first field of every task event."""
    try:
        return journal.unpack(journal.Record(topic=envelope.topic, event=envelope.event)).container_id
    except (ValueError, AttributeError):
        return ""


def _fill(folder: Folder, spec: TaskSpec) -> None:
    data, config = specs.prepare(spec.spec, bundle=spec.bundle, newest="")
    folder.write("config.json", data)
    root = specs.remapped_root(config)
    if root is not None:
        os.chown(folder.path, -1, root[1])
        folder.path.chmod(0o710)
    (folder.path / "rootfs").mkdir(mode=0o711)
    os.mkfifo(folder.path / "log", 0o600)


def _read(folder: Folder) -> _Record | None:
    try:
        fields = json.loads((folder.path / _RECORD).read_bytes())
        return _Record(**{**fields, "endpoint": Endpoint(**fields["endpoint"])})
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _listen(path: Path) -> socket.socket:
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    before = os.umask(0o177)
    try:
        listener.bind(str(path))
    finally:
        os.umask(before)
    listener.listen(64)
    return listener
