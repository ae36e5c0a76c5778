"""``orlop-shim`` as a runtime of containerd: the real one of Debian, and the newer ones' way of asking."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import grpc
import grpc.aio
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.empty_pb2 import Empty

from orlop_plugins.ttrpc import Handler, TtrpcServer
from orlop_protos.containerd.runtime.bootstrap.v1 import bootstrap_pb2
from orlop_protos.containerd.services.events.ttrpc.v1 import events_pb2
from orlop_protos.containerd.task.v3 import shim_pb2 as task
from orlop_protos.containerd.task.v3 import shim_pb2_grpc as task_grpc
from orlopd.plugin.mount import unmount
from tests.support.containerd import Peer, containerd
from tests.support.ctr import Said, ctr, events_in
from tests.support.daemon import mounts_under, processes_naming
from tests.support.images import save_archive

from .conftest import spec_of

SHIM = Path(sys.executable).parent / "orlop-shim"
NAME = "io.containerd.orlop.v2"
IMAGE = "docker.io/library/probe:latest"

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(180)]


@dataclass(frozen=True)
class Host:
    """A stock containerd that knows our shim by name."""

    peer: Peer

    def ctr(self, *words: str, given: str = "") -> Said:
        return ctr(self.peer.address, *words, stdin=given.encode(), hold=1 if given else 0, timeout=90)

    def run(self, *words: str, given: str = "") -> Said:
        """``ctr run`` with our runtime; options first."""
        return self.ctr("run", "--runtime", NAME, *words, given=given)

    def shims(self) -> Sequence[int]:
        return [pid for pid in processes_naming(str(self.peer.folder)) if "shim" in _name(pid)]


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    folder = tmp_path_factory.mktemp("bin")
    (folder / "containerd-shim-orlop-v2").symlink_to(SHIM)
    archive = save_archive(folder / "probe.tar", IMAGE)
    with containerd(str(folder)) as peer:
        made = Host(peer)
        assert made.ctr("images", "import", str(archive)).code == 0
        yield made
        _until(lambda: made.shims() == [])


def test_a_foreground_container_gives_its_output_input_and_exit_code(host: Host) -> None:
    said = host.run("--rm", IMAGE, "fg", "sh", "-c", "cat; echo wrong >&2; exit 7", given="typed\n")
    assert (said.code, said.out, said.err) == (7, "typed\n", "wrong\n")
    assert host.ctr("tasks", "ls", "-q").out == ""


def test_a_container_in_the_background_does_all_that_a_task_does(host: Host) -> None:
    with _container(host, "bg", "sleep", "1000"):
        assert "RUNNING" in host.ctr("tasks", "ls").out
        said = host.ctr("tasks", "exec", "--exec-id", "e", "bg", "sh", "-c", "echo in; exit 3")
        assert (said.code, said.out) == (3, "in\n")
        assert host.ctr("tasks", "pause", "bg").code == 0
        assert "PAUSED" in host.ctr("tasks", "ls").out
        assert host.ctr("tasks", "resume", "bg").code == 0
        assert "memory.usage_in_bytes" in host.ctr("tasks", "metrics", "bg").out
        (pid,) = [line.split()[0] for line in host.ctr("tasks", "ps", "bg").out.splitlines()[1:]]
        assert Path(f"/proc/{pid}").exists()
        assert host.ctr("tasks", "kill", "-s", "KILL", "bg").code == 0
        _until(lambda: "STOPPED" in host.ctr("tasks", "ls").out)


def test_its_events_reach_whoever_listens_to_containerd(host: Host, tmp_path: Path) -> None:
    heard = tmp_path / "events"
    with events_in(heard, host.peer.address):
        assert host.run("--rm", IMAGE, "told", "true").code == 0
        _until(lambda: b"/tasks/delete" in heard.read_bytes())
    topics = [line.split()[5] for line in heard.read_text().splitlines() if " /tasks/" in line]
    assert topics[:3] == ["/tasks/create", "/tasks/start", "/tasks/exit"]


def test_a_shim_that_was_killed_leaves_nothing_and_containerd_knows(host: Host) -> None:
    with _container(host, "lost", "sleep", "1000"):
        _until(lambda: len(host.shims()) == 1)  # those of earlier containers end by themselves
        (shim,) = host.shims()
        (pid,) = [line.split()[0] for line in host.ctr("tasks", "ps", "lost").out.splitlines()[1:]]
        os.kill(shim, signal.SIGKILL)
        _until(lambda: "lost" not in host.ctr("tasks", "ls").out)
        _until(lambda: not Path(f"/proc/{pid}").exists())
    assert not [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if "/lost/" in line]


# --- The newer way of asking -----------------------------------------------------------------------------


@dataclass(frozen=True)
class World:
    """What a containerd of 2.3 gives a shim: a bundle, and a socket that takes events."""

    folder: Path
    heard: list[str]

    def bundle(self, id: str, spec: bytes) -> Path:
        path = self.folder / id
        path.mkdir()
        (path / "config.json").write_bytes(spec)
        return path

    def call(self, bundle: Path, action: str, given: bytes = b"", **env: str) -> bytes:
        line = [SHIM, "-namespace", "n", "-id", bundle.name, "-address", self.folder / "c.sock"]
        line += ["-publish-binary", "/bin/true", "-bundle", bundle] if action == "delete" else []
        done = subprocess.run(
            [*line, action], input=given, cwd=bundle, env=os.environ | env, capture_output=True, timeout=60
        )
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout

    def params(self, id: str) -> bytes:
        return bootstrap_pb2.BootstrapParams(
            instance_id=id,
            namespace="n",
            containerd_ttrpc_address=str(self.folder / "c.sock.ttrpc"),
            containerd_grpc_address=str(self.folder / "c.sock"),
        ).SerializeToString()


@pytest.fixture
async def world() -> Any:
    heard: list[str] = []

    async def forward(request: Any) -> Empty:
        heard.append(request.envelope.topic)
        return Empty()

    with tempfile.TemporaryDirectory(prefix="shim-", dir="/tmp") as name:
        folder = Path(name)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(folder / "c.sock.ttrpc"))
        listener.listen()
        service = ("containerd.services.events.ttrpc.v1.Events", "Forward")
        try:
            async with TtrpcServer(listener, {service: Handler(events_pb2.ForwardRequest, forward)}):
                yield World(folder, heard)
        finally:
            for pid in processes_naming(name):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            for point in mounts_under(folder):
                unmount(Path(point), detach=True)


async def test_a_shim_is_asked_and_answers_in_protobuf(world: World, rootfs: Path) -> None:
    bundle = world.bundle("a", spec_of(rootfs, "sh", "-c", "exit 5", cgroup="/orlop-test-a"))
    answer = await anyio.to_thread.run_sync(world.call, bundle, "start", world.params("a"))
    result = bootstrap_pb2.BootstrapResult.FromString(answer)
    assert (result.version, result.protocol) == (3, "grpc")
    async with grpc.aio.insecure_channel(f"unix:{result.address}") as channel:
        stub: Any = task_grpc.TaskStub(channel)
        await stub.Create(task.CreateTaskRequest(id="a", bundle=str(bundle)), timeout=30)
        await stub.Start(task.StartRequest(id="a"), timeout=30)
        assert (await stub.Wait(task.WaitRequest(id="a"), timeout=30)).exit_status == 5
        assert (await stub.Delete(task.DeleteRequest(id="a"), timeout=30)).exit_status == 5
        await stub.Shutdown(task.ShutdownRequest(id="a"), timeout=30)
    await anyio.to_thread.run_sync(_until, lambda: not Path(result.address).exists())
    assert world.heard == ["/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"]
    deleted = task.DeleteResponse.FromString(await anyio.to_thread.run_sync(world.call, bundle, "delete"))
    assert deleted.exit_status == 5


async def test_before_protobuf_the_answer_was_json_and_the_options_came_alone(
    world: World, rootfs: Path
) -> None:
    bundle = world.bundle("b", spec_of(rootfs, "true"))
    call = lambda: world.call(bundle, "start", AnyMessage().SerializeToString(), MAX_SHIM_VERSION="2")  # noqa: E731
    answer = json.loads(await anyio.to_thread.run_sync(call))
    assert (answer["version"], answer["protocol"]) == (3, "grpc")
    async with grpc.aio.insecure_channel(f"unix:{answer['address']}") as channel:
        stub: Any = task_grpc.TaskStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.State(task.StateRequest(id="b"), timeout=30)
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        await stub.Shutdown(task.ShutdownRequest(id="b", now=True), timeout=30)


async def test_containers_of_one_sandbox_share_a_shim(world: World, rootfs: Path) -> None:
    addresses = set[str]()
    for name in ("s1", "s2"):
        spec = json.loads(spec_of(rootfs, "true"))
        spec["annotations"] = {"io.kubernetes.cri.sandbox-id": "sandbox"}
        bundle = world.bundle(name, json.dumps(spec).encode())
        answer = await anyio.to_thread.run_sync(world.call, bundle, "start", world.params(name))
        addresses.add(bootstrap_pb2.BootstrapResult.FromString(answer).address)
    assert len(addresses) == 1
    async with grpc.aio.insecure_channel(f"unix:{addresses.pop()}") as channel:
        await task_grpc.TaskStub(channel).Shutdown(task.ShutdownRequest(id="s1", now=True), timeout=30)


def test_a_bundle_without_a_spec_is_refused_in_one_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [SHIM, "-namespace", "n", "-id", "x", "-address", tmp_path / "c.sock", "start"],
        stdin=subprocess.DEVNULL,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert done.stderr.startswith(f"orlop-shim: the bundle {tmp_path} has no readable config.json")
    assert len(done.stderr.splitlines()) == 1


def _name(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    return ""


@contextlib.contextmanager
def _container(host: Host, id: str, *args: str) -> Iterator[None]:
    said = host.run("-d", IMAGE, id, *args)
    assert said.code == 0, said.err
    try:
        yield
    finally:
        host.ctr("tasks", "rm", "-f", id)
        host.ctr("containers", "rm", id)


def _until(true: Any, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.1)
