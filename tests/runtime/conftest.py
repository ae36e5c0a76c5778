"""Runtimes with real runc, real shims and a root filesystem of the machine's static busybox."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.abc import TaskGroup

from orlop_plugins.oci.config import OciConfig
from orlop_plugins.oci.runtime import OciRuntime
from orlopd.plugin.mount import unmount
from orlopd.plugin.runtime import Attachment, Exit, Output, Stdio, Task, TaskSpec
from orlopd.testing.leftovers import Leftovers

APPLETS = (
    "sh",
    "cat",
    "echo",
    "sleep",
    "true",
    "false",
    "stty",
    "head",
    "dd",
    "id",
    "ls",
    "seq",
    "env",
    "yes",
    "tr",
)


ATTACH = Stdio(attach=True)
TAG = f"orlop-test-{os.getpid()}"
"""What the names of this process's cgroups begin with."""
LOG = logging.getLogger("test")


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def rootfs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with busybox and a few folders, shared by all tests and read-only in their specs."""
    path = tmp_path_factory.mktemp("rootfs")
    for name in ("bin", "dev", "etc", "proc", "sys", "tmp"):
        (path / name).mkdir()
    shutil.copy("/usr/bin/busybox", path / "bin/busybox")
    for applet in APPLETS:
        (path / "bin" / applet).symlink_to("busybox")
    (path / "etc/passwd").write_text("root:x:0:0:root:/:/bin/sh\n")
    return path


def spec_of(rootfs: Path, *args: str, terminal: bool = False, cgroup: str = "", **process: Any) -> bytes:
    """An OCI spec that runs ``args``."""
    kinds = ["mount", "uts", "ipc", "network", "pid"]
    spec = {
        "ociVersion": "1.0.2",
        "root": {"path": str(rootfs), "readonly": True},
        "process": {
            "terminal": terminal,
            "user": {"uid": 0, "gid": 0},
            "args": list(args),
            "env": ["PATH=/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": {k: ["CAP_KILL"] for k in ("bounding", "effective", "permitted")},
            **process,
        },
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
            {
                "destination": "/dev/pts",
                "type": "devpts",
                "source": "devpts",
                "options": ["newinstance", "ptmxmode=0666"],
            },
        ],
        "linux": {
            "cgroupsPath": cgroup or f"/{TAG}-{secrets.token_hex(4)}",
            "resources": {"devices": [{"allow": False, "access": "rwm"}]},
            "namespaces": [{"type": kind} for kind in kinds],
        },
    }
    return json.dumps(spec).encode()


def process_of(*args: str) -> bytes:
    """An OCI process for an exec."""
    return json.dumps(
        {"args": list(args), "cwd": "/", "env": ["PATH=/bin", "TERM=xterm"], "user": {"uid": 0, "gid": 0}}
    ).encode()


@dataclass
class Bench:
    """A runtime on folders of its own, which can be left as a killed daemon leaves it and opened again."""

    state: Path
    rootfs: Path
    binary: str = os.environ.get("ORLOP_TEST_OCI_RUNTIME", "runc")
    config: OciConfig = field(default_factory=OciConfig)

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[OciRuntime]:
        async with anyio.create_task_group() as group:
            runtime = await OciRuntime.open(self.binary, _Context(self.config, self.state, group))
            try:
                yield runtime
            finally:
                await runtime.aclose()
                group.cancel_scope.cancel()

    def spec(self, id: str, *args: str, stdio: Stdio = ATTACH, **more: Any) -> TaskSpec:
        return TaskSpec("test", id, spec_of(self.rootfs, *args, terminal=stdio.terminal, **more), stdio=stdio)

    def folder(self, id: str) -> Path:
        return self.state / "tasks" / "test" / id

    def shim_pid(self, id: str) -> int:
        return int((self.folder(id) / "shim.pid").read_text().split()[0])

    def watch(self) -> Leftovers:
        """What stands now; its check() fails when anything is there beside it."""
        watch = Leftovers(str(self.state), TAG)
        watch.empty(*(self.state / name for name in ("tasks/test", "s", "runc/test")))
        return watch

    def destroy(self) -> None:
        """Leave nothing after a test that failed: shims with their containers, mounts, the folder."""
        for pid, _ in self._processes():
            for children in Path(f"/proc/{pid}/task").glob("*/children"):
                for child in children.read_text().split():
                    os.kill(int(child), signal.SIGKILL)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        unmount(self.state, detach=True)
        shutil.rmtree(self.state, ignore_errors=True)

    def _processes(self) -> list[tuple[int, bytes]]:
        found: list[tuple[int, bytes]] = []
        for entry in Path("/proc").glob("[0-9]*"):
            if int(entry.name) == os.getpid():
                continue
            with contextlib.suppress(OSError):
                command = (entry / "cmdline").read_bytes()
                links = [str(link.readlink()) for link in (entry / "fd").iterdir()]
                if os.fsencode(self.state) in command or any(str(self.state) in link for link in links):
                    found.append((int(entry.name), command))
        return found


@dataclass
class _Context:
    config: Any
    state: Path
    tasks: TaskGroup
    log: logging.Logger = LOG
    root: Path = Path("/nonexistent")

    def get(self, kind: Any, id: str = "") -> Any:
        raise NotImplementedError


@pytest.fixture
def bench(rootfs: Path) -> Iterator[Bench]:
    state = Path(tempfile.mkdtemp(prefix="o-rt-", dir="/tmp"))
    bench = Bench(state, rootfs)
    try:
        watch = bench.watch()
        yield bench
        watch.check()
    finally:
        bench.destroy()


@pytest.fixture
async def runtime(bench: Bench) -> AsyncIterator[OciRuntime]:
    async with bench.open() as runtime:
        yield runtime


async def read_all(attachment: Attachment) -> tuple[bytes, bytes, Exit | None]:
    """All output up to the end, by stream, and the end."""
    out = {1: bytearray(), 2: bytearray()}
    end = None
    async for item in attachment.output():
        if isinstance(item, Output):
            out[item.fd] += item.data
        elif isinstance(item, Exit):
            end = item
    return bytes(out[1]), bytes(out[2]), end


async def run(runtime: OciRuntime, spec: TaskSpec) -> tuple[bytes, bytes, int]:
    """Create, attach, start, wait, delete."""
    task = await runtime.create(spec)
    async with task.attach(stdin=spec.stdio.hold_stdin) as attachment:
        await task.start()
        out, err, end = await read_all(attachment)
    assert end is not None
    assert (await task.wait()).code == end.code
    await task.delete()
    return out, err, end.code


async def wait_for(attachment: Attachment, text: bytes) -> bytes:
    """Output up to and with ``text``."""
    seen = b""
    async for item in attachment.output():
        if isinstance(item, Output):
            seen += item.data
        if text in seen:
            return seen
    raise AssertionError(f"{text!r} did not come: {seen!r}")


def topics(events: Sequence[Any]) -> list[str]:
    return [event.topic.removeprefix("/tasks/") for event in events]


async def events_of(task: Task, after: int = 0, until: str = "/tasks/delete") -> list[Any]:
    """The events of a task up to one."""
    found: list[Any] = []
    with anyio.fail_after(30):
        async for event in task.events(after):
            found.append(event)
            if event.topic == until:
                return found
    return found
