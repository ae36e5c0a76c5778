"""Limits and settings as a container sees them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import any_pb2

from orlop_protos.containerd.services.tasks.v1 import tasks_pb2, tasks_pb2_grpc
from tests.support.cgroups import cgroup_file, version_2
from tests.support.daemon import Daemon

CHANGING = """
from orlopd.plugin import hookimpl

@hookimpl
def orlop_adjust_spec(spec):
    spec["process"]["env"].append("GREETING=hello")
    spec["linux"]["resources"].setdefault("pids", {})["limit"] = 77
"""


def test_what_was_asked_is_what_a_container_has(daemon: Daemon, image: str, tmp_path: Path) -> None:
    profile = tmp_path / "profile.json"
    refused = [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}]
    profile.write_text(json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": refused}))
    script = """
        cd /sys/fs/cgroup
        cat cpu/cpu.shares cpu/cpu.cfs_quota_us cpuset/cpuset.cpus memory/memory.soft_limit_in_bytes
        cat /proc/sys/kernel/shmmax /proc/self/oom_score_adj
        ulimit -n; ulimit -c; id -G; grep NoNewPrivs /proc/self/status | tr -d '[:space:]'; echo
        df -k /dev/shm | tail -n 1 | tr -s ' ' | cut -d ' ' -f 2
        mkdir /tmp/x 2>/dev/null || echo filtered
    """
    said = daemon.must(
        daemon.orlop(
            *("run", "--rm", "--cpu-shares", "300", "--cpu-quota", "30000", "--cpuset-cpus", "0"),
            *("--memory-reservation", "48m", "--sysctl", "kernel.shmmax=123456", "--oom-score-adj", "900"),
            *("--ulimit", "nofile=100:200", "--ulimit", "core=0", "--group-add", "extra", "--shm-size", "1m"),
            *("--security-opt", "no-new-privileges", "--security-opt", f"seccomp={profile}"),
            *("probe", "sh", "-c", script),
        )
    )
    assert said.splitlines() == [
        *("300", "30000", "0", str(48 << 20), "123456", "900"),
        *("100", "0", "0 2000", "NoNewPrivs:1", "1024", "filtered"),
    ]


@contextmanager
def box(daemon: Daemon, *options: str | Path) -> Iterator[int]:
    """A container "box" that sleeps; its process."""
    daemon.must(daemon.orlop("run", "-d", "--name", "box", *options, "probe", "sleep", "1000"))
    try:
        yield json.loads(daemon.must(daemon.orlop("inspect", "box")))[0]["pid"]
    finally:
        daemon.must(daemon.orlop("rm", "-f", "box"))


def update_task(daemon: Daemon, resources: dict[str, Any]) -> None:
    """Change limits as a client of containerd's does."""
    (task,) = daemon.must(daemon.ctr("tasks", "ls", "-q")).split()
    limits = any_pb2.Any(
        type_url="types.containerd.io/opencontainers/runtime-spec/1/LinuxResources",
        value=json.dumps(resources).encode(),
    )
    request = tasks_pb2.UpdateTaskRequest(container_id=task, resources=limits)
    with daemon.channel() as channel:
        tasks: Any = tasks_pb2_grpc.TasksStub(channel)
        tasks.Update(request, metadata=[("containerd-namespace", daemon.namespace)], timeout=30)


def test_block_devices_are_shared_and_throttled_as_was_asked(daemon: Daemon, image: str) -> None:
    device = Path("/dev/loop0")
    number = f"{os.major(device.stat().st_rdev)}:{os.minor(device.stat().st_rdev)}"
    throttles = {
        "read_bps": ("--device-read-bps", "3m", 3 << 20),
        "write_bps": ("--device-write-bps", "4m", 4 << 20),
        "read_iops": ("--device-read-iops", "500", 500),
        "write_iops": ("--device-write-iops", "600", 600),
    }
    asked = [word for option, value, _ in throttles.values() for word in (option, f"{device}:{value}")]
    with box(daemon, "--blkio-weight", "300", *asked) as pid:
        weight = next(
            path
            for name in ("blkio.bfq.weight", "blkio.weight")
            if (path := cgroup_file(pid, "blkio", name)).exists()
        )
        assert weight.read_text().split()[-1] == "300"
        for word, (_, _, limit) in throttles.items():
            file = cgroup_file(pid, "blkio", f"blkio.throttle.{word}_device")
            assert file.read_text().split() == [number, str(limit)], word
        daemon.must(daemon.orlop("update", "--blkio-weight", "400", "box"))
        assert weight.read_text().split()[-1] == "400"
        update_task(daemon, {"blockIO": {"weight": 500}})
        assert weight.read_text().split()[-1] == "500"


def test_a_weight_that_a_device_does_not_know_is_explained(daemon: Daemon, image: str) -> None:
    assert "[bfq]" not in Path("/sys/block/loop0/queue/scheduler").read_text()
    done = daemon.orlop("run", "--rm", "--blkio-weight-device", "/dev/loop0:200", "probe", "true")
    assert done.returncode == 125
    assert b"hint: the device's scheduler knows no weights" in done.stderr


@pytest.fixture
def runc_on_version_2(daemon: Daemon, tmp_path: Path) -> Iterator[Path]:
    """A program that runs runc where all there is of control groups is version 2."""
    path = tmp_path / "runc"
    inside = 'mount -t cgroup2 none /sys/fs/cgroup && exec runc "$@"'
    path.write_text(f"#!/bin/sh\nexec unshare -m --propagation slave sh -c '{inside}' runc \"$@\"\n")
    path.chmod(0o755)
    before = (version_2() / "cgroup.subtree_control").read_text()
    yield path
    if "hugetlb" not in before:  # runc has each group give on what it can
        for group in (version_2() / daemon.namespace, version_2()):
            (group / "cgroup.subtree_control").write_text("-hugetlb")


def test_huge_pages_are_limited_on_version_2(daemon: Daemon, image: str, runc_on_version_2: Path) -> None:
    for asked in ("--hugetlb=2MB=4m", "--cgroup-conf=hugetlb.2MB.max=4194304"):
        with box(daemon, "--runtime", runc_on_version_2, asked) as pid:
            limit = cgroup_file(pid, "hugetlb", "hugetlb.2MB.max")
            assert limit.read_text() == f"{4 << 20}\n"
            update_task(daemon, {"unified": {"hugetlb.2MB.max": str(8 << 20)}})
            assert limit.read_text() == f"{8 << 20}\n"
            (task,) = daemon.must(daemon.ctr("tasks", "ls", "-q")).split()
            metrics = json.loads(daemon.must(daemon.ctr("tasks", "metrics", "--format", "json", task)))
            assert {"pagesize": "2MB", "max": 8 << 20} in metrics["hugetlb"]


def test_the_machines_namespaces_can_be_shared(daemon: Daemon, image: str) -> None:
    kinds = "for kind in pid ipc uts; do busybox readlink /proc/self/ns/$kind; done"
    script = f"{kinds}; ls -d /proc/{os.getpid()}"
    said = daemon.must(
        daemon.orlop(
            *("run", "--rm", "--pid", "host", "--ipc", "host", "--uts", "host", "probe", "sh", "-c", script)
        )
    )
    own = [os.readlink(f"/proc/self/ns/{kind}") for kind in ("pid", "ipc", "uts")]  # noqa: PTH115
    assert said.split() == [*own, f"/proc/{os.getpid()}"]


def test_a_privileged_container_may_do_what_others_may_not(daemon: Daemon, image: str) -> None:
    script = "mount -t tmpfs tmpfs /tmp && echo mounted; ls /dev/full; : > /proc/sys/kernel/shmmni || true"
    assert daemon.must(
        daemon.orlop("run", "--rm", "--privileged", "probe", "sh", "-c", script + " 2>/dev/null")
    ).split() == ["mounted", "/dev/full"]
    plain = daemon.orlop("run", "--rm", "probe", "mount", "-t", "tmpfs", "tmpfs", "/tmp")
    assert plain.returncode


def test_what_a_plugin_changed_is_told_with_its_name(archive: str) -> None:
    with Daemon(plugins={"changing.py": CHANGING}) as daemon:
        daemon.must(daemon.orlop("import", archive))
        script = "echo $GREETING; cat /sys/fs/cgroup/pids/pids.max"
        daemon.must(daemon.orlop("create", "--name", "box", "probe", "sh", "-c", script))
        (seen,) = json.loads(daemon.must(daemon.orlop("inspect", "box")))
        count = len(seen["oci_spec"]["process"]["env"])
        told = [(each["path"], each["operation"]) for each in seen["spec_changes"]]
        assert told == [(f"/process/env/{count - 1}", "add"), ("/linux/resources/pids", "add")]
        assert all("changing" in each["plugin"] for each in seen["spec_changes"])
        assert daemon.must(daemon.orlop("start", "-a", "box")).split() == ["hello", "77"]
        daemon.must(daemon.orlop("rm", "box"))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--ulimit", "files=1"), "there is no limit"),
        (("--sysctl", "vm.swappiness=1"), "the whole machine's"),
        (("--cpus", "1", "--cpu-quota", "5000"), "contradict each other"),
        (("--security-opt", "label=disable"), "are known"),
        (("--security-opt", "apparmor=mine"), "AppArmor"),
        (("--device-read-bps", "/dev/null:1m"), "no block device"),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence(
    daemon: Daemon, image: str, options: tuple[str, ...], said: str
) -> None:
    done = daemon.orlop("run", "--rm", *options, "probe", "true")
    assert done.returncode
    assert said in done.stderr.decode()
