"""Where a container's control groups are, and what they tell."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
from pathlib import Path

import pytest

from orlop_plugins.oci.shim.cgroups import Cgroup, groups_at, read_pairs
from orlop_plugins.oci.shim.metrics import measure
from orlop_plugins.oci.shim.oom import OomWatch
from orlop_protos.io.containerd.cgroups.v2 import cgroup2_pb2


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def test_version_2_metrics_of_a_recorded_tree(tmp_path: Path) -> None:
    """This machine has no version 2 controllers, so the files are written here as a kernel 6.1 has them."""
    files = {
        "pids.current": "3\n",
        "pids.max": "max\n",
        "cpu.stat": "usage_usec 900\nuser_usec 600\nsystem_usec 300\nnr_periods 0\nnr_throttled 0\n",
        "memory.current": "4096\n",
        "memory.max": "8192\n",
        "memory.stat": "anon 1024\nfile 2048\nworkingset_refault_anon 1\nworkingset_refault_file 2\n",
        "memory.events": "low 0\nhigh 0\nmax 4\noom 2\noom_kill 1\noom_group_kill 0\n",
        "memory.pressure": "some avg10=1.50 avg60=0.00 avg300=0.00 total=77\n",
        "io.stat": "8:16 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n",
        "hugetlb.2MB.current": "0\n",
        "hugetlb.2MB.max": "max\n",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    cgroup = Cgroup(2, {"": tmp_path})
    packed = measure(cgroup)
    assert packed.type_url == "io.containerd.cgroups.v2.Metrics"
    metrics = cgroup2_pb2.Metrics.FromString(packed.value)
    assert (metrics.pids.current, metrics.pids.limit) == (3, (1 << 64) - 1)
    assert (metrics.cpu.usage_usec, metrics.memory.usage, metrics.memory.usage_limit) == (900, 4096, 8192)
    assert (metrics.memory.anon, metrics.memory.workingset_refault) == (1024, 3)
    assert metrics.memory.psi.some.total == 77
    assert (metrics.memory_events.oom_kill, cgroup.oom_kills()) == (1, 1)
    assert [(entry.major, entry.minor, entry.wbytes) for entry in metrics.io.usage] == [(8, 16, 2)]
    assert [entry.pagesize for entry in metrics.hugetlb] == ["2MB"]


class _Counted(Cgroup):
    """A group whose "kills" are how often it was found populated."""

    def oom_kills(self) -> int:
        return read_pairs(self.paths[""] / "memory.events").get("populated", 0)


async def test_an_out_of_memory_kill_on_version_2_is_noticed_when_the_kernel_tells(tmp_path: Path) -> None:
    """Of version 2 this machine has no memory controller, but the kernel tells of a change of cgroup.events
    as it does of memory.events, by the same condition of the file."""
    (top,) = (path for kind, path in _hierarchies() if kind == "cgroup2")
    group = Path(top) / f"orlop-test-oom-{os.getpid()}"
    group.mkdir()
    try:
        (tmp_path / "memory.events").symlink_to(group / "cgroup.events")
        happened = asyncio.Event()
        watch = OomWatch(_Counted(2, {"": tmp_path}), happened.set)
        process = subprocess.Popen(["sleep", "100"])  # noqa: ASYNC220
        try:
            (group / "cgroup.procs").write_text(str(process.pid))
            async with asyncio.timeout(10):
                await happened.wait()
            assert watch.kills == 1
        finally:
            process.kill()
            process.wait()
            watch.close()
    finally:
        for _ in range(100):
            with contextlib.suppress(OSError):
                group.rmdir()
                break
            await asyncio.sleep(0.02)
    assert not group.exists()


def _hierarchies() -> list[tuple[str, str]]:
    lines = Path("/proc/self/mounts").read_text().splitlines()
    return [(line.split()[2], line.split()[1]) for line in lines]


@pytest.mark.parametrize(
    ("membership", "version", "folders"),
    [
        ("4:memory:/d/a\n3:cpu,cpuacct:/d/a\n0::/d/a\n", 1, {"memory", "cpu", "cpuacct", ""}),
        ("0::/d/a\n", 2, {""}),
        ("4:memory:/own\n0::/own\n", 0, set[str]()),
    ],
)
def test_where_a_containers_groups_are(
    tmp_path: Path, membership: str, version: int, folders: set[str]
) -> None:
    for name in ("self", "7"):
        (tmp_path / name).mkdir()
    (tmp_path / "7/cgroup").write_text(membership)
    (tmp_path / "self/cgroup").write_text("4:memory:/own\n3:cpu,cpuacct:/\n0::/own\n")
    (tmp_path / "self/mountinfo").write_text(
        "30 1 0:26 / /c/memory rw - cgroup cgroup rw,memory\n"
        "31 1 0:27 / /c/cpu rw - cgroup cgroup rw,cpu,cpuacct\n"
        "32 1 0:28 / /c/unified rw - cgroup2 cgroup2 rw\n"
    )
    cgroup = Cgroup.of(7, tmp_path)
    assert (cgroup.version if cgroup else 0, set(cgroup.paths) if cgroup else set()) == (version, folders)
    if version == 1 and cgroup is not None:
        assert cgroup.path("memory") == Path("/c/memory/d/a")


@pytest.mark.parametrize(
    ("inside", "folder"),
    [
        ("system.slice:orlop:a", "system.slice/orlop-a.scope"),
        (":docker:a", "system.slice/docker-a.scope"),
        ("machine-big.slice:p:a", "machine.slice/machine-big.slice/p-a.scope"),
        ("-.slice:p:a", "p-a.scope"),
        ("system.slice::b.scope", "system.slice/b.scope"),
        ("/ns/a", "ns/a"),
    ],
)
def test_groups_are_found_where_systemd_puts_them(tmp_path: Path, inside: str, folder: str) -> None:
    (tmp_path / "self").mkdir()
    (tmp_path / "self/mountinfo").write_text(f"30 1 0:26 / {tmp_path}/c rw - cgroup2 cgroup rw\n")
    (tmp_path / "c" / folder).mkdir(parents=True)
    assert groups_at(inside, tmp_path) == [tmp_path / "c" / folder]
