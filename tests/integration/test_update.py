"""Limits and restart policies that are changed while a container is there, and its processes."""

from __future__ import annotations

import json
import os
import secrets
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import orlop.sync
from orlop import errors
from orlop.values import Container, ContainerSpec, ContainerState, Mount, MountType, Process, Resources
from tests.support.daemon import Daemon, eventually

MEBI = 1 << 20


class Box:
    """A container by its name, which need not be there yet."""

    def __init__(self, client: Any) -> None:
        self.name = f"up-{secrets.token_hex(4)}"
        self._containers = client.containers

    def run(self, *command: str, **more: Any) -> None:
        spec = ContainerSpec(image="probe", name=self.name, args=command, **more)
        with self._containers.run(spec, detach=True) as session:
            session.ready()

    def exec(self, *command: str, **more: Any) -> None:
        with self._containers.exec(self.name, command, detach=True, **more) as session:
            session.ready()

    def update(self, *, restart: str | None = None, **limits: Any) -> Container:
        return self._containers.update(self.name, Resources(**limits), restart=restart)

    def restart(self) -> None:
        with self._containers.start(self.name) as session:
            session.ready()

    def stop(self) -> None:
        self._containers.stop(self.name, timeout=0)

    def top(self) -> list[Process]:
        return list(self._containers.top(self.name))

    def remove(self) -> None:
        self._containers.remove(self.name, force=True)

    @property
    def now(self) -> Container:
        return self._containers.get(self.name).container

    @property
    def kept(self) -> Resources:
        """The limits that it is to have."""
        spec = self.now.spec
        assert spec is not None
        return spec.resources

    def limits(self) -> dict[str, str]:
        """What the kernel holds it to, by file of its control groups."""
        files = ("memory.limit_in_bytes", "cpu.cfs_quota_us", "cpu.shares", "pids.max", "cpuset.cpus")
        found: dict[str, str] = {}
        for line in Path(f"/proc/{self.now.pid}/cgroup").read_text().splitlines():
            _, kind, path = line.split(":", 2)
            group = Path("/sys/fs/cgroup", kind.removeprefix("name="), path[1:])
            found |= {file: (group / file).read_text().strip() for file in files if (group / file).exists()}
        return found


@pytest.fixture
def box(daemon: Daemon, image: str) -> Iterator[Box]:
    with orlop.sync.connect(daemon.address, namespace=daemon.namespace) as client:
        box = Box(client)
        yield box
        box.remove()


def test_limits_change_at_once_and_for_good(box: Box) -> None:
    box.run("sleep", "1000", resources=Resources(64 * MEBI, nano_cpus=800_000_000, pids=50))
    changed = box.update(memory_bytes=96 * MEBI, nano_cpus=500_000_000, cpu_shares=300, cpuset_cpus="0")
    assert changed == box.now
    wanted = {
        "memory.limit_in_bytes": str(96 * MEBI),
        "cpu.cfs_quota_us": "50000",
        "cpu.shares": "300",
        "pids.max": "50",
        "cpuset.cpus": "0",
    }
    assert box.limits() == wanted
    box.update(pids=20, cpu_quota=30_000)
    wanted |= {"pids.max": "20", "cpu.cfs_quota_us": "30000"}
    assert box.limits() == wanted
    box.stop()
    box.update(memory_bytes=128 * MEBI)
    box.restart()
    wanted["memory.limit_in_bytes"] = str(128 * MEBI)
    assert box.limits() == wanted
    kept = box.kept
    assert (kept.memory_bytes, kept.nano_cpus, kept.cpu_quota, kept.pids) == (128 * MEBI, 0, 30_000, 20)


def test_what_makes_no_sense_is_refused_and_changes_nothing(box: Box) -> None:
    box.run("sleep", "1000", resources=Resources(64 * MEBI, memory_swap_bytes=64 * MEBI))
    before = box.limits()
    refused: list[tuple[dict[str, Any], str]] = [
        ({"memory_bytes": 1024}, "too few"),
        ({"memory_bytes": 128 * MEBI}, "together is below that of memory"),
        ({"nano_cpus": 10**15}, "the range is from 0.01 to"),
        ({"cpuset_cpus": "4000"}, "not all available"),
        ({"huge_pages": {"2MB": MEBI}}, "huge_pages of a container cannot be changed"),
        ({"restart": "sometimes"}, "no restart policy"),
        ({}, "nothing was named"),
    ]
    for asked, said in refused:
        with pytest.raises(errors.InvalidArgument, match=said):
            box.update(**asked)
    assert box.limits() == before
    assert box.kept.memory_bytes == 64 * MEBI


def test_what_the_kernel_refuses_is_not_kept(box: Box) -> None:
    """A limit below what a container uses, and cannot give back: a file in memory, without swap."""
    box.run(
        *("sh", "-c", "head -c 40000000 /dev/zero >/t/big; sleep 1000"),
        resources=Resources(64 * MEBI, memory_swap_bytes=64 * MEBI),
        mounts=[Mount(target="/t", type=MountType.TMPFS)],
    )
    eventually(box.top, lambda found: found[-1].name == "sleep", 20)
    with pytest.raises(errors.FailedPrecondition, match="OCI runtime update failed") as caught:
        box.update(memory_bytes=8 * MEBI, memory_swap_bytes=8 * MEBI)
    assert "uses more than that already" in caught.value.hint
    assert box.limits()["memory.limit_in_bytes"] == str(64 * MEBI)
    assert box.kept.memory_bytes == 64 * MEBI


def test_a_restart_policy_counts_from_when_it_is_set(box: Box) -> None:
    box.run("sleep", "1000")
    assert box.update(restart="on-failure:5").restart == "on-failure:5"
    pid = box.now.pid
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: box.now, lambda now: now.state is ContainerState.RUNNING and now.pid != pid, 30)
    now = box.update(restart="no")
    assert now.spec is not None
    assert (now.restart, now.restarts, now.spec.restart) == ("no", 0, "no")
    assert not [label for label in now.labels if label.startswith("containerd.io/restart")]
    os.kill(now.pid, signal.SIGKILL)
    eventually(lambda: box.now.state, lambda state: state is ContainerState.STOPPED, 30)


def test_one_that_removes_itself_gets_no_restart_policy(box: Box) -> None:
    box.run("sleep", "1000", auto_remove=True)
    before = box.limits()
    with pytest.raises(errors.InvalidArgument, match="is removed when it ends"):
        box.update(restart="always", memory_bytes=64 * MEBI)
    assert box.limits() == before


def test_a_container_that_was_stopped_stays_so_with_a_policy_that_it_gets_later(
    daemon: Daemon, box: Box
) -> None:
    box.run("sleep", "1000")
    box.stop()
    assert box.update(restart="unless-stopped").labels["containerd.io/restart.explicitly-stopped"] == "true"


def test_half_of_a_limit_of_processors_leaves_the_other(box: Box) -> None:
    box.run("sleep", "1000")
    box.update(cpu_quota=50_000, cpu_period=25_000)
    box.update(cpu_quota=30_000)
    assert (box.kept.cpu_quota, box.kept.cpu_period) == (30_000, 25_000)
    box.update(nano_cpus=10**9)
    assert (box.kept.nano_cpus, box.kept.cpu_quota, box.kept.cpu_period) == (10**9, 0, 0)
    box.update(cpu_period=50_000)
    assert (box.kept.nano_cpus, box.kept.cpu_quota, box.kept.cpu_period) == (0, 100_000, 50_000)
    assert box.limits()["cpu.cfs_quota_us"] == "100000"


def test_a_container_of_ctr_is_changed_as_well(daemon: Daemon, box: Box) -> None:
    daemon.must(daemon.ctr("run", "-d", "docker.io/library/probe:latest", box.name, "sleep", "1000"))
    assert box.update(memory_bytes=64 * MEBI, restart="unless-stopped").restart == "unless-stopped"
    assert box.limits()["memory.limit_in_bytes"] == str(64 * MEBI)
    resources = json.loads(daemon.must(daemon.ctr("containers", "info", box.name)))["Spec"]["linux"][
        "resources"
    ]
    assert resources["memory"]["limit"] == 64 * MEBI
    assert resources["devices"], "what was not named is as it was"


def test_top_lists_a_containers_processes_and_no_others(box: Box) -> None:
    box.run("sh", "-c", "sleep 1001 & exec sleep 1002", user="7")
    box.exec("sleep", "1003", user="8")

    def listed() -> dict[str, Process]:
        return {" ".join(each.args): each for each in box.top()}

    wanted = {f"sleep {number}" for number in (1001, 1002, 1003)}
    found = eventually(listed, lambda found: set(found) == wanted, 30)
    assert set(found) == wanted
    child, main, more = (found[words] for words in sorted(wanted))
    assert (main.pid, main.inner_pid) == (box.now.pid, 1)
    assert child.parent_pid == main.pid
    assert [each.uid for each in (main, child, more)] == [7, 7, 8]
    assert (main.exec_id, child.exec_id) == ("", "")
    assert more.exec_id
    assert [each.pid for each in box.top()] == sorted(each.pid for each in found.values())
    for each in found.values():
        assert (each.name, each.state) == ("sleep", "S")
        assert each.memory_bytes > 0
        assert each.started_at is not None


def test_top_of_what_does_not_run_is_an_error(box: Box) -> None:
    box.run("true")
    eventually(lambda: box.now.state, lambda state: state is ContainerState.STOPPED, 30)
    with pytest.raises(errors.FailedPrecondition, match="does not run"):
        box.top()
