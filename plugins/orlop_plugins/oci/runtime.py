"""The runtime: makes tasks, each under a shim of its own, and finds them again after a restart."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import anyio
import anyio.to_thread
from anyio.abc import TaskGroup
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import DecodeError

from orlop_protos.containerd.runc.v1 import oci_pb2
from orlop_protos.containerd.task.v3 import shim_pb2 as task
from orlop_protos.containerd.types import mount_pb2
from orlopd.plugin import Context
from orlopd.plugin.errors import FailedPrecondition, InvalidArgument, OrlopError
from orlopd.plugin.runtime import Task, TaskSpec
from orlopd.plugin.values import TypedBytes

from . import scope, specs
from .cleanup import clean_up, has, remove_empty_groups
from .config import OciConfig
from .folder import Folder, Record, check_id, new_address
from .launch import Launcher
from .shim.explain import missing
from .shim.serve import Order
from .shimlog import pointing
from .shims import ShimProcess
from .stdio import encode
from .task import ShimTask

log = logging.getLogger(__name__)

_RECOVERIES = 8
_OPTIONS_TYPE = oci_pb2.Options.DESCRIPTOR.full_name


class OciRuntime:
    """Tasks of one OCI runtime. See :class:`orlopd.plugin.runtime.Runtime`."""

    def __init__(self, binary: str, config: OciConfig, state: Path, tasks: TaskGroup) -> None:
        self._binary = config.binary or binary
        self._config = config
        self._state = state
        self._group = tasks
        self._launcher = Launcher(config.shim_deadline, fork_server=config.fork_server, label=str(state))
        self._tasks: set[ShimTask] = set()
        self._scoped = config.systemd_scope and scope.available()

    @classmethod
    async def open(cls, binary: str, context: Context) -> OciRuntime:
        """Make it from its config section; the fork server starts in the background."""
        runtime = cls(binary, context.config, context.state, context.tasks)
        await runtime._launcher.warm_up()
        return runtime

    async def create(self, spec: TaskSpec) -> Task:
        check_id("namespace", spec.namespace)
        check_id("task id", spec.id)
        options = self._options(spec.options, spec.runtime)
        binary = await anyio.to_thread.run_sync(_find, options.binary_name)
        folder = await anyio.to_thread.run_sync(Folder.make, self._state, spec.namespace, spec.id)
        record = Record(
            namespace=spec.namespace,
            id=spec.id,
            binary=binary,
            root=str(Path(options.root or self._state / "runc") / spec.namespace),
            address="",
            stdio=spec.stdio,
            protocol="both",
        )
        made: ShimTask | None = None
        try:
            record = await anyio.to_thread.run_sync(self._fill, folder, record, spec, options)
            made = await self._launch(folder, record)
            await made.make(self._request(folder, spec, options))
        except BaseException as error:
            kept: Path | None = None
            with anyio.CancelScope(shield=True):
                if made is not None:
                    if isinstance(error, OrlopError):
                        kept = await made.keep_log(error)
                    await made.abandon()
                else:
                    await anyio.to_thread.run_sync(_remove, folder, record)
            if kept is not None and isinstance(error, OrlopError):
                raise pointing(error, kept) from error
            raise
        self._keep(made)
        return made

    async def recover(self) -> Sequence[Task]:
        found: list[ShimTask] = []
        limiter = anyio.CapacityLimiter(_RECOVERIES)

        async def one(folder: Folder) -> None:
            async with limiter:
                try:
                    item = await self._recover(folder)
                except Exception:
                    log.exception("cannot recover the task in %s", folder.path)
                    return
                if item is not None:
                    found.append(item)

        async with anyio.create_task_group() as group:
            for folder in await anyio.to_thread.run_sync(lambda: list(Folder.all(self._state))):
                group.start_soon(one, folder)
        for item in found:
            self._keep(item)
        return sorted(found, key=lambda item: (item.namespace, item.id))

    async def aclose(self) -> None:
        """Let go of all shims, which live on, and end the fork server."""
        for item in list(self._tasks):
            await item.aclose()
        await self._launcher.aclose()
        await anyio.to_thread.run_sync(_remove_groups, self._state, self._config.cgroup_parent)

    async def _launch(self, folder: Folder, record: Record) -> ShimTask:
        order = Order(
            namespace=record.namespace,
            id=record.id,
            bundle=str(folder.path),
            address=record.address,
            protocol=record.protocol,
            root=record.root,
            stall=self._config.client_stall,
            log_size=self._config.log_max_size,
            log_files=self._config.log_max_files,
            log_format=self._config.log_format,
        )
        pid = await self._launcher.launch(order)
        if self._scoped:
            self._group.start_soon(scope.enter, pid, record.namespace, record.id)
        shim = await anyio.to_thread.run_sync(ShimProcess.find, folder.path)
        if shim is None:
            raise FailedPrecondition(
                f"the shim of task {record.id} ended at once", hint=f"its log is {folder.path}/shim.log"
            )
        return ShimTask(folder, record, shim, self._config.command_deadline)

    async def _recover(self, folder: Folder) -> ShimTask | None:
        record = await anyio.to_thread.run_sync(folder.read_record)
        if record is None:
            await anyio.to_thread.run_sync(folder.remove)
            return None
        shim = await anyio.to_thread.run_sync(ShimProcess.find, folder.path)
        found = ShimTask(folder, record, shim, self._config.command_deadline)
        if shim is not None:
            whole = await found.exists()
        else:
            created = await anyio.to_thread.run_sync(has, folder, "/tasks/create")
            whole = created and not await anyio.to_thread.run_sync(has, folder, "/tasks/delete")
        if not whole:
            log.info("removing task %s/%s, which was never whole or is deleted", record.namespace, record.id)
            await found.abandon()
            return None
        if shim is None:
            log.warning("the shim of task %s/%s is gone", record.namespace, record.id)
            await found.watch()
        return found

    def _keep(self, task: ShimTask) -> None:
        self._tasks.add(task)
        self._group.start_soon(self._follow, task)

    async def _follow(self, task: ShimTask) -> None:
        try:
            await task.watch()
            await task.deleted.wait()
        finally:
            self._tasks.discard(task)

    def _fill(self, folder: Folder, record: Record, spec: TaskSpec, options: oci_pb2.Options) -> Record:
        """Write what the shim and a later daemon need, and say in the options what the spec has to do with
        them. Blocks."""
        changed = os.stat(record.binary).st_mtime_ns  # noqa: PTH116
        newest = specs.newest_spec(record.binary, changed)
        data, config = specs.prepare(spec.spec, bundle=spec.bundle, newest=newest)
        parent, systemd = self._config.cgroup_parent, options.systemd_cgroup
        if specs.place(config, record.namespace, record.id, parent=parent, systemd=systemd):
            data = json.dumps(config).encode()
        folder.write("config.json", data)
        root = specs.remapped_root(config)
        if root is not None:  # the container's root must reach its rootfs through this folder
            specs.check_reachable(folder.path, root[0])
            os.chown(folder.path, -1, root[1])
            folder.path.chmod(0o710)
            if not (options.io_uid or options.io_gid):  # and open its own pipes anew
                options.io_uid, options.io_gid = root
        Path(record.root).mkdir(mode=0o711, parents=True, exist_ok=True)
        filled = dataclasses.replace(record, address=new_address(self._state))
        folder.write_record(filled)
        return filled

    def _options(self, given: TypedBytes | None, name: str) -> oci_pb2.Options:
        options = oci_pb2.Options()
        if given is not None and given.value and given.type_url.rpartition("/")[2] == _OPTIONS_TYPE:
            try:
                options.ParseFromString(given.value)
            except DecodeError as error:
                raise InvalidArgument(f"malformed runtime options: {error}") from error
        elif given is not None and given.value and not given.type_url.endswith("runtimeoptions.v1.Options"):
            raise InvalidArgument(
                f"runtime options of type {given.type_url[:100]!r} are not understood: want {_OPTIONS_TYPE}"
            )
        if not options.binary_name:
            options.binary_name = name if name.startswith("/") else self._binary
        options.systemd_cgroup = options.systemd_cgroup or self._config.systemd_cgroup
        return options

    def _request(self, folder: Folder, spec: TaskSpec, options: oci_pb2.Options) -> task.CreateTaskRequest:
        stdin, stdout, stderr = encode(spec.stdio)
        return task.CreateTaskRequest(
            id=spec.id,
            bundle=str(folder.path),
            rootfs=[
                mount_pb2.Mount(type=m.type, source=m.source, target=m.target, options=m.options)
                for m in spec.rootfs
            ],
            terminal=spec.stdio.terminal,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            checkpoint=spec.checkpoint,
            options=AnyMessage(type_url=_OPTIONS_TYPE, value=options.SerializeToString()),
        )


def _find(binary: str) -> str:
    path = shutil.which(binary)
    if path is None:
        raise missing(binary)
    return path


def _remove_groups(state: Path, parent: str) -> None:
    """Of every namespace that ever had a task, an earlier daemon's too."""
    with contextlib.suppress(FileNotFoundError):
        names = [path.name for path in (state / "runc").iterdir()]
        remove_empty_groups([*names, *(f"{parent.strip('/')}/{name}" for name in names if parent.strip("/"))])


def _remove(folder: Folder, record: Record) -> None:
    if record.address:
        clean_up(folder, record)
    folder.remove()
