"""containerd.services.tasks.v1 as a client speaks it: processes by exec id, and who answers for what."""

from __future__ import annotations

import copy
import secrets
import signal
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.protobuf import any_pb2

from orlop_protos.containerd.runc.v1 import oci_pb2
from orlop_protos.containerd.services.tasks.v1 import tasks_pb2, tasks_pb2_grpc
from orlop_protos.containerd.v1.types import task_pb2
from orlop_protos.io.containerd.cgroups.v1 import cgroup1_pb2
from tests.runtime.conftest import process_of
from tests.support.daemon import Daemon

IMAGE = "docker.io/library/probe:latest"


class Tasks:
    """The service for one container; a call that is refused raises what the client gets."""

    def __init__(self, channel: grpc.Channel, daemon: Daemon, id: str) -> None:
        self._stub: Any = tasks_pb2_grpc.TasksStub(channel)
        self._metadata = [("containerd-namespace", daemon.namespace)]
        self.id = id

    def __call__(self, method: str, kind: Any, **fields: Any) -> Any:
        request = kind(container_id=self.id, **fields)
        return getattr(self._stub, method)(request, metadata=self._metadata, timeout=20)

    def of(self, id: str) -> Tasks:
        """The same for another container."""
        other = copy.copy(self)
        other.id = id
        return other

    def all(self, method: str, request: Any) -> Any:
        """A call that is about all of the namespace."""
        return getattr(self._stub, method)(request, metadata=self._metadata, timeout=20)

    def refusal(self, method: str, kind: Any, **fields: Any) -> grpc.StatusCode:
        with pytest.raises(grpc.RpcError) as caught:
            self(method, kind, **fields)
        return caught.value.code()  # type: ignore[attr-defined]

    def exec(self, exec_id: str, *args: str) -> int:
        spec = any_pb2.Any(value=process_of(*args))
        self("Exec", tasks_pb2.ExecProcessRequest, exec_id=exec_id, spec=spec)
        return self("Start", tasks_pb2.StartRequest, exec_id=exec_id).pid

    def status(self, exec_id: str = "") -> Any:
        return self("Get", tasks_pb2.GetRequest, exec_id=exec_id).process

    def kill(self, number: int, **which: Any) -> None:
        self("Kill", tasks_pb2.KillRequest, signal=number, **which)

    def end(self, exec_id: str = "") -> int:
        return self("Wait", tasks_pb2.WaitRequest, exec_id=exec_id).exit_status


@pytest.fixture
def tasks(daemon: Daemon, image: str) -> Iterator[Tasks]:
    name = f"api-{secrets.token_hex(4)}"
    daemon.must(daemon.ctr("run", "-d", IMAGE, name, "sleep", "1000"))
    with daemon.channel() as channel:
        yield Tasks(channel, daemon, name)
    daemon.ctr("tasks", "rm", "-f", name)
    daemon.must(daemon.ctr("containers", "rm", name))


def test_a_signal_by_exec_id_reaches_that_process_alone(tasks: Tasks) -> None:
    pids = {exec_id: tasks.exec(exec_id, "sleep", "1000") for exec_id in ("a", "b")}
    tasks.kill(signal.SIGKILL, exec_id="a")
    assert tasks.end("a") == 137
    assert tasks.status("a").status == task_pb2.STOPPED
    for exec_id, pid in (("b", pids["b"]), ("", tasks.status().pid)):
        status = tasks.status(exec_id)
        assert (status.status, status.pid) == (task_pb2.RUNNING, pid)
    tasks.kill(signal.SIGTERM, exec_id="b")
    assert tasks.end("b") == 143


def test_a_signal_for_all_ends_execs_with_the_container(tasks: Tasks) -> None:
    tasks.exec("a", "sleep", "1000")
    tasks.kill(signal.SIGKILL, all=True)
    assert (tasks.end("a"), tasks.end()) == (137, 137)


def test_an_exec_that_has_ended_or_is_none_gets_no_signal(tasks: Tasks) -> None:
    kill = ("Kill", tasks_pb2.KillRequest)
    assert tasks.refusal(*kill, exec_id="none", signal=9) is grpc.StatusCode.NOT_FOUND
    tasks.exec("a", "true")
    assert tasks.end("a") == 0
    assert tasks.refusal(*kill, exec_id="a", signal=9) is grpc.StatusCode.NOT_FOUND
    spec = any_pb2.Any(value=process_of("true"))
    tasks("Exec", tasks_pb2.ExecProcessRequest, exec_id="b", spec=spec)
    assert tasks.refusal(*kill, exec_id="b", signal=9) is grpc.StatusCode.FAILED_PRECONDITION
    assert tasks.status().status == task_pb2.RUNNING


def test_an_exec_is_deleted_by_its_id_and_then_unknown(tasks: Tasks) -> None:
    pid = tasks.exec("a", "sh", "-c", "exit 5")
    assert tasks.end("a") == 5
    answer = tasks("DeleteProcess", tasks_pb2.DeleteProcessRequest, exec_id="a")
    assert (answer.id, answer.pid, answer.exit_status) == ("a", pid, 5)
    for method, kind in (("Get", tasks_pb2.GetRequest), ("Wait", tasks_pb2.WaitRequest)):
        assert tasks.refusal(method, kind, exec_id="a") is grpc.StatusCode.NOT_FOUND
    assert tasks.exec("a", "true"), "its id is free again"
    assert tasks.end("a") == 0


def test_pids_are_told_with_the_exec_that_started_them(tasks: Tasks) -> None:
    pid = tasks.exec("a", "sleep", "1000")
    listed = tasks("ListPids", tasks_pb2.ListPidsRequest).processes
    names = {each.pid: oci_pb2.ProcessDetails.FromString(each.info.value).exec_id for each in listed}
    assert names == {tasks.status().pid: "", pid: "a"}


def test_states_are_told_as_they_change(tasks: Tasks) -> None:
    assert tasks.status().status == task_pb2.RUNNING
    tasks("Pause", tasks_pb2.PauseTaskRequest)
    assert tasks.status().status == task_pb2.PAUSED
    assert tasks.refusal("Pause", tasks_pb2.PauseTaskRequest) is grpc.StatusCode.FAILED_PRECONDITION
    tasks("Resume", tasks_pb2.ResumeTaskRequest)
    assert tasks.refusal("Resume", tasks_pb2.ResumeTaskRequest) is grpc.StatusCode.FAILED_PRECONDITION
    assert tasks.status().status == task_pb2.RUNNING
    assert tasks.refusal("Delete", tasks_pb2.DeleteTaskRequest) is grpc.StatusCode.FAILED_PRECONDITION
    tasks.kill(signal.SIGKILL)
    assert tasks.end() == 137
    stopped = tasks.status()
    assert (stopped.status, stopped.exit_status) == (task_pb2.STOPPED, 137)
    assert stopped.HasField("exited_at")
    assert tasks.end() == 137, "who waits after the end hears of it too"


def test_metrics_are_of_those_that_were_asked_for(tasks: Tasks) -> None:
    found = tasks.all("Metrics", tasks_pb2.MetricsRequest(filters=[f"id=={tasks.id}"])).metrics
    (metric,) = found
    assert metric.id == tasks.id
    sample = cgroup1_pb2.Metrics.FromString(metric.data.value)
    assert sample.memory.usage.usage > 0
    assert sample.pids.current == 1
    assert not tasks.all("Metrics", tasks_pb2.MetricsRequest(filters=["id==nobody"])).metrics


def test_limits_of_a_running_task_change(tasks: Tasks) -> None:
    limit = any_pb2.Any(value=b'{"pids": {"limit": 33}, "memory": {"limit": 67108864}}')
    tasks("Update", tasks_pb2.UpdateTaskRequest, resources=limit)
    (metric,) = tasks.all("Metrics", tasks_pb2.MetricsRequest(filters=[f"id=={tasks.id}"])).metrics
    sample = cgroup1_pb2.Metrics.FromString(metric.data.value)
    assert (sample.pids.limit, sample.memory.usage.limit) == (33, 64 << 20)


def test_a_terminal_gets_its_size(daemon: Daemon, image: str, tasks: Tasks) -> None:
    """By the engine's container, whose terminal nobody else holds."""
    key = daemon.must(daemon.orlop("run", "-dit", "probe", "sleep", "1000")).strip()
    try:
        terminal = tasks.of(key)
        terminal("ResizePty", tasks_pb2.ResizePtyRequest, width=123, height=45)
        said = daemon.must(daemon.orlop("exec", key, "sh", "-c", "stty size </dev/console"))
        assert said == "45 123\n"
    finally:
        daemon.must(daemon.orlop("rm", "-f", key))


def test_what_has_no_task_is_told_from_what_has_no_container(daemon: Daemon, tasks: Tasks) -> None:
    with daemon.channel() as channel:
        nobody = Tasks(channel, daemon, "nobody")
        with pytest.raises(grpc.RpcError, match="container") as caught:
            nobody.kill(9)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND  # type: ignore[attr-defined]
