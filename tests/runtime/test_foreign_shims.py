"""Shims of others under our daemon: containerd's own for runc, by ttrpc, and one that speaks gRPC."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import any_pb2

from orlop_plugins.oci.shims import identity
from orlop_plugins.shims.program import Endpoint, endpoint
from orlop_protos.containerd.runtime.bootstrap.v1 import bootstrap_pb2
from orlop_protos.containerd.services.tasks.v1 import tasks_pb2, tasks_pb2_grpc
from orlop_protos.containerd.v1.types import task_pb2
from orlopd.plugin.errors import FailedPrecondition
from tests.support import standin_shim
from tests.support.ctr import Said, events_in
from tests.support.daemon import Daemon, processes_naming
from tests.support.images import save_archive

IMAGE = "docker.io/library/probe:latest"
PROCESS = "types.containerd.io/opencontainers/runtime-spec/1/Process"
RUNC = "/usr/bin/containerd-shim-runc-v2"

pytestmark = pytest.mark.timeout(180)


class Host:
    """A daemon, and ``ctr`` with a foreign shim."""

    def __init__(self, daemon: Daemon, runtime: str) -> None:
        self.daemon = daemon
        self.runtime = runtime

    def ctr(self, *words: str) -> Said:
        done = self.daemon.ctr(*words, timeout=60)
        return Said(done.returncode, done.stdout.decode(), done.stderr.decode())

    def run(self, *words: str) -> Said:
        return self.ctr("run", "--runtime", self.runtime, *words)

    def shim(self, id: str) -> int:
        """The pid of a task's shim."""
        for pid in processes_naming(str(self.daemon.folder)):
            line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
            if "shim" in line and f"-id {id} " in line:
                return pid
        raise AssertionError(f"{id} has no shim")

    def state(self, id: str) -> str:
        rows = [line.split() for line in self.ctr("tasks", "ls").out.splitlines()]
        return next((row[2] for row in rows if row[0] == id), "")


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    archive = save_archive(tmp_path_factory.mktemp("archive") / "probe.tar", IMAGE)
    with Daemon() as made:
        made.must(made.orlop("import", str(archive)))
        yield made


@pytest.fixture(params=["ttrpc", "grpc"])
def host(request: pytest.FixtureRequest, daemon: Daemon, tmp_path_factory: Any) -> Host:
    if request.param == "ttrpc":
        return Host(daemon, RUNC)
    program = tmp_path_factory.mktemp("bin") / "containerd-shim-orlop-v2"
    program.symlink_to(Path(sys.executable).parent / "orlop-shim")
    return Host(daemon, str(program))


@contextlib.contextmanager
def _container(host: Host, id: str, *options: str) -> Iterator[None]:
    said = host.run("-d", *options, IMAGE, id, "sleep", "1000")
    assert said.code == 0, said.err
    try:
        yield
    finally:
        host.ctr("tasks", "rm", "-f", id)
        host.ctr("containers", "rm", id)


def test_who_shares_a_shim_lives_on_when_the_other_is_deleted(host: Host) -> None:
    sandbox = ("--annotation", "io.kubernetes.cri.sandbox-id=box")
    with _container(host, "box", *sandbox):
        with _container(host, "two", *sandbox):
            pass
        host.daemon.kill9()
        host.daemon.start()
        assert host.state("box") == "RUNNING"
        said = host.ctr("tasks", "exec", "--exec-id", "e", "box", "echo", "here")
        assert (said.code, said.out) == (0, "here\n")


def test_a_foreground_container_gives_output_and_exit_code(host: Host) -> None:
    said = host.run("--rm", IMAGE, "fg", "sh", "-c", "echo out; echo wrong >&2; exit 7")
    assert (said.code, said.out, said.err) == (7, "out\n", "wrong\n")
    assert host.ctr("tasks", "ls", "-q").out == ""


def test_a_task_does_all_that_tasks_do_and_tells_of_it_in_order(host: Host, tmp_path: Path) -> None:
    heard = tmp_path / "events"
    with events_in(heard, str(host.daemon.socket), "topic~=tasks", env=host.daemon.environment):
        with _container(host, "bg"):
            said = host.ctr("tasks", "exec", "--exec-id", "e", "bg", "sh", "-c", "echo in; exit 3")
            assert (said.code, said.out) == (3, "in\n")
            assert host.ctr("tasks", "pause", "bg").code == 0
            assert host.state("bg") == "PAUSED"
            assert host.ctr("tasks", "resume", "bg").code == 0
            assert "pids.current" in host.ctr("tasks", "metrics", "bg").out
            assert host.ctr("tasks", "kill", "-s", "KILL", "bg").code == 0
            _until(lambda: host.state("bg") == "STOPPED")
        _until(lambda: b"/tasks/delete" in heard.read_bytes())
    told = [line.split()[5] for line in heard.read_text().splitlines()]
    topics = [topic.removeprefix("/tasks/") for topic in told if topic.startswith("/tasks/")]
    assert topics == [
        "create", "start", "exec-added", "exec-started", "exit", "paused", "resumed", "exit", "delete",
    ]  # fmt: skip


def test_a_container_outlives_the_daemon_and_its_end_meanwhile_is_not_lost(host: Host) -> None:
    with _container(host, "stays"), _container(host, "ends"):
        pid = int(next(row.split()[1] for row in host.ctr("tasks", "ls").out.splitlines() if "ends" in row))
        host.daemon.kill9()
        os.kill(pid, signal.SIGKILL)
        host.daemon.start()
        assert host.state("stays") == "RUNNING"
        _until(lambda: host.state("ends") == "STOPPED")
        said = host.ctr("tasks", "exec", "--exec-id", "e", "stays", "echo", "again")
        assert (said.code, said.out) == (0, "again\n")


def test_a_shim_that_was_killed_leaves_a_stopped_task_and_nothing_else(host: Host) -> None:
    with _container(host, "lost"):
        pid = int(next(row.split()[1] for row in host.ctr("tasks", "ls").out.splitlines() if "lost" in row))
        os.kill(host.shim("lost"), signal.SIGKILL)
        _until(lambda: host.state("lost") == "STOPPED")
        assert identity(pid) == ""
        assert "137" in host.ctr("tasks", "rm", "lost").err
    mounts = Path("/proc/self/mountinfo").read_text()
    assert str(host.daemon.folder / "s/runtime/shim") not in mounts


@pytest.fixture
def third(daemon: Daemon, tmp_path: Path) -> Iterator[Tasks]:
    """A container without a task, whose shim serves version 3 by ttrpc."""
    program = tmp_path / "containerd-shim-standin-v3"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} {standin_shim.__file__} "$@"\n')
    program.chmod(0o755)
    daemon.must(daemon.ctr("containers", "create", "--runtime", str(program), IMAGE, "v3", "sleep", "1000"))
    with daemon.channel() as channel:
        yield Tasks(tasks_pb2_grpc.TasksStub(channel), daemon.namespace)
    daemon.ctr("tasks", "rm", "-f", "v3")
    daemon.must(daemon.ctr("containers", "rm", "v3"))


class Tasks:
    """The task service about one container."""

    def __init__(self, stub: Any, namespace: str) -> None:
        self._stub = stub
        self._metadata = [("containerd-namespace", namespace)]

    def __call__(self, method: str, request: str = "", **fields: Any) -> Any:
        made = getattr(tasks_pb2, f"{request or method}Request")(container_id="v3", **fields)
        return getattr(self._stub, method)(made, metadata=self._metadata, timeout=30)


def test_a_shim_of_task_version_3_by_ttrpc_runs_a_task_and_an_exec(
    third: Tasks, daemon: Daemon, tmp_path: Path
) -> None:
    third("Create", "CreateTask")
    assert third("Get").process.status == task_pb2.CREATED
    pid = third("Start").pid
    assert Path(f"/proc/{pid}/comm").read_text() == "sleep\n"
    process = third("Get").process
    assert (process.status, process.pid) == (task_pb2.RUNNING, pid)
    assert json.loads(daemon.must(daemon.orlop("shim", "inspect", "v3")))[0]["version"] == "3"

    out = tmp_path / "out"
    os.mkfifo(out)
    command = json.dumps({"args": ["sh", "-c", "echo in; exit 7"], "cwd": "/"}).encode()
    third(
        "Exec", "ExecProcess", exec_id="e", stdout=str(out), spec=any_pb2.Any(type_url=PROCESS, value=command)
    )
    with ThreadPoolExecutor() as pool:
        said = pool.submit(out.read_text)
        assert third("Start", exec_id="e").pid != pid
        assert said.result(20) == "in\n"
        assert third("Wait", exec_id="e").exit_status == 7
        assert third("DeleteProcess", exec_id="e").exit_status == 7
        with pytest.raises(grpc.RpcError, match="not found"):
            third("Get", exec_id="e")
        assert [each.pid for each in third("ListPids").processes] == [pid]

        waited = pool.submit(third, "Wait")
        third("Kill", signal=signal.SIGTERM)
        assert waited.result(20).exit_status == 128 + signal.SIGTERM
    assert third("Get").process.status == task_pb2.STOPPED
    assert third("Delete", "DeleteTask").exit_status == 128 + signal.SIGTERM
    with pytest.raises(grpc.RpcError, match="not found"):
        third("Get")
    assert not [line for line in processes_naming(str(daemon.folder)).values() if "standin_shim" in line]


def test_what_a_foreign_shim_cannot_do_is_said(daemon: Daemon) -> None:
    done = daemon.orlop("run", "--rm", "--runtime", RUNC, "probe", "true")
    assert done.returncode == 125
    assert b"keeps no streams for clients that attach" in done.stderr
    assert b"hint: " in done.stderr


def test_a_shim_that_is_not_installed_is_named(daemon: Daemon) -> None:
    done = daemon.orlop("run", "--rm", "--runtime", "io.containerd.nosuch.v1", "probe", "true")
    assert done.returncode == 125
    assert b"there is no program containerd-shim-nosuch-v1" in done.stderr


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (b"unix:///run/s/1\n", Endpoint("/run/s/1", "ttrpc", 2)),
        (b"unix://@abstract", Endpoint("\0abstract", "ttrpc", 2)),
        (b'{"version":3,"address":"unix:///s","protocol":"ttrpc"}', Endpoint("/s", "ttrpc", 3)),
        (b'{"version":3,"address":"/s","protocol":"grpc"}', Endpoint("/s", "grpc", 3)),
        (
            bootstrap_pb2.BootstrapResult(version=3, address="/s", protocol="grpc").SerializeToString(),
            Endpoint("/s", "grpc", 3),
        ),
    ],
)
def test_every_form_of_answer_is_understood(said: bytes, expected: Endpoint) -> None:
    assert endpoint(said) == expected


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"\xff\xfe",
        b"hello",
        b'{"version":9,"address":"/s","protocol":"ttrpc"}',
        b'{"version":3}',
        b"[1]",
    ],
)
def test_an_answer_that_is_none_is_refused(said: bytes) -> None:
    with pytest.raises(FailedPrecondition, match="no address"):
        endpoint(said)


def _until(true: Any, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.1)
