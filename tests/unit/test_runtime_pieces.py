"""The parts of the OCI runtime plugin that need no container."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import tracemalloc
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from orlop_plugins.oci import journal, specs, stdio, wire
from orlop_plugins.oci.config import OciConfig
from orlop_plugins.oci.probe import probe
from orlop_plugins.oci.shim.attach import signal_number
from orlop_plugins.oci.shim.cgroups import Cgroup, groups_at, read_pairs
from orlop_plugins.oci.shim.explain import Failure, explain, missing
from orlop_plugins.oci.shim.logfile import LogFile, LogKeeping
from orlop_plugins.oci.shim.metrics import measure
from orlop_plugins.oci.shim.oom import OomWatch
from orlop_plugins.oci.shim.restore import checkpoint_args, restore_args
from orlop_protos.containerd.events import task_pb2 as events
from orlop_protos.containerd.runc.v1 import oci_pb2
from orlop_protos.io.containerd.cgroups.v2 import cgroup2_pb2
from orlopd.core.logs import parse_line
from orlopd.plugin.errors import FailedPrecondition, InvalidArgument, NotFound, Skip
from orlopd.plugin.runtime import Stdio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.parametrize(
    "given",
    [
        Stdio(),
        Stdio("/in", "/out", "/err", True),
        Stdio(stdout="file:///a%20b", stderr="file:///a%20b"),
        Stdio(attach=True),
        Stdio("/in", "/o?u&t=1", "/err", attach=True, hold_stdin=True, log="/l o/g&x=é"),
        Stdio(stdout="binary:///bin/x?a=b", log="/log"),
    ],
)
def test_stdio_travels_whole(given: Stdio) -> None:
    assert stdio.decode(*stdio.encode(given), given.terminal) == given


def test_a_malformed_stream_is_refused() -> None:
    with pytest.raises(InvalidArgument):
        stdio.decode("", "attach:?nonsense", "", False)


def test_an_error_travels_with_reason_and_hint() -> None:
    error = FailedPrecondition("no — said so", reason="WHY", resource="task a", hint="do §")
    back = wire.unpack_error(error.code, error.message, wire.pack_error(error))
    assert type(back) is FailedPrecondition
    assert (back.message, back.reason, back.resource, back.hint) == ("no — said so", "WHY", "task a", "do §")
    assert type(wire.unpack_error("NOT_FOUND", "x", ())) is NotFound


def test_times_travel_to_the_microsecond() -> None:
    at = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
    assert wire.from_timestamp(wire.to_timestamp(at)) == at


async def test_a_journal_is_read_back_and_a_torn_tail_ignored(tmp_path: Path) -> None:
    path = tmp_path / journal.FILE
    written = journal.Journal(path)
    for pid in (1, 2, 3):
        written.add(events.TaskStart(container_id="a", pid=pid))
    assert [(item.sequence, journal.unpack(item).pid) for item in journal.read(path)] == [
        (1, 1),
        (2, 2),
        (3, 3),
    ]
    data = path.read_bytes()
    path.write_bytes(data[:-3])
    assert [item.sequence for item in journal.read(path)] == [1, 2]
    journal.append(path, events.TaskExit(container_id="a", id="a", exit_status=9))
    assert [item.topic for item in journal.read(path)] == ["/tasks/start", "/tasks/start", "/tasks/exit"]


async def test_followers_get_what_was_and_what_comes(tmp_path: Path) -> None:
    written = journal.Journal(tmp_path / journal.FILE)
    written.add(events.TaskStart(pid=1))

    async def collect(after: int) -> list[int]:
        return [item.sequence async for item in written.follow(after)]

    tasks = [asyncio.create_task(collect(after)) for after in (0, 1)]
    await asyncio.sleep(0)
    written.add(events.TaskStart(pid=2))
    written.close()
    assert [await task for task in tasks] == [[1, 2], [2]]
    written.forget(1)
    assert await collect(0) == [2]


async def test_a_grown_journal_keeps_the_main_processs_life(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "_COMPACT_BYTES", 100)
    path = tmp_path / journal.FILE
    written = journal.Journal(path)
    written.add(events.TaskStart(container_id="a", pid=1))
    for number in range(50):
        written.add(events.TaskExecStarted(container_id="a", exec_id=f"e{number}", pid=number))
        if number != 7:
            written.add(events.TaskExit(container_id="a", id=f"e{number}", pid=number))
    written.add(events.TaskExit(container_id="a", id="a", exit_status=3))
    written.forget(100)
    assert [journal.unpack(item).pid for item in journal.read(path)] == [1, 7, 0]
    written.add(events.TaskDelete(container_id="a"))
    assert [item.sequence for item in journal.read(path)] == [1, 16, 101, 102]


async def test_a_journal_whose_events_are_handled_stays_small(tmp_path: Path) -> None:
    path = tmp_path / journal.FILE
    written = journal.Journal(path)
    before = 0
    tracemalloc.start()
    try:
        for number in range(3_000):
            written.add(events.TaskExecAdded(container_id="a" * 64, exec_id=f"e{number}"))
            if number == 1000 or number % 256 == 0:
                written.forget(number)
            if number == 1000:
                before, _ = tracemalloc.get_traced_memory()
        assert tracemalloc.get_traced_memory()[0] - before < 300_000
    finally:
        tracemalloc.stop()
    assert path.stat().st_size < 512 << 10


async def test_the_log_keeps_bytes_and_pieces_apart(tmp_path: Path) -> None:
    path = tmp_path / "log"
    sink = LogFile(str(path), 2)
    sink.write(1, b"one\ntw")
    sink.write(2, b"err\n")
    sink.write(1, b"o\n\npart")
    sink.release()
    sink.release()
    lines = [line.split(b" ", 1)[1] for line in path.read_bytes().splitlines()]
    assert lines == [b"stdout F one", b"stderr F err", b"stdout F two", b"stdout F ", b"stdout P part"]


async def test_a_log_of_json_lines_is_dockers_and_loses_no_byte(tmp_path: Path) -> None:
    path = tmp_path / "log"
    sink = LogFile(str(path), 2, LogKeeping(format="json"))
    said = b'a "b" \xc3\xa9\n\n\xff\xfe not UTF-8 \xed\xb2\x80\n' + b"\xc3\xa9" * 20_000 + b"\npart"
    sink.write(1, said[:7])  # in the middle of a character
    sink.write(1, said[7:])
    sink.write(2, b"err\n")
    sink.release()
    sink.release()
    lines = path.read_bytes().splitlines()
    assert b'{"log":"a \\"b\\" \xc3\xa9\\n","stream":"stdout","time":"20' in lines[0]
    assert json.loads(lines[-1])["log"] == "part"
    entries = [entry for entry in map(parse_line, lines) if entry]
    assert len(entries) == len(lines)
    assert b"".join(entry.data for entry in entries if entry.fd == 1) == said
    assert [entry.data for entry in entries if entry.fd == 2] == [b"err\n"]


async def test_a_log_that_is_a_symlink_is_not_followed(tmp_path: Path) -> None:
    """CVE-2026-53489."""
    (tmp_path / "log").symlink_to(tmp_path / "victim")
    with pytest.raises(FailedPrecondition):
        LogFile(str(tmp_path / "log"), 1)
    assert not (tmp_path / "victim").exists()


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ('exec: "x": executable file not found in $PATH', "COMMAND_NOT_FOUND"),
        ('exec: "/x": stat /x: no such file or directory', "COMMAND_NOT_FOUND"),
        ("executable file `x` not found in $PATH: No such file or directory", "COMMAND_NOT_FOUND"),
        ('exec: "/x": permission denied', "COMMAND_NOT_EXECUTABLE"),
        ("open executable: Operation not permitted", "COMMAND_NOT_EXECUTABLE"),
        ('chdir to cwd ("/x") set in config.json failed: no such file or directory', "RUNTIME_FAILED"),
        ("error mounting: no such file or directory", "RUNTIME_FAILED"),
    ],
)
def test_what_runtimes_say_is_understood(said: str, reason: str) -> None:
    error = explain(Failure("create", 1, said), "OCI runtime create failed")
    assert (error.reason, error.message) == (reason, f"OCI runtime create failed: {said}")


RUNC = "runc create failed: unable to start container process: "
INIT = f"{RUNC}error during container init: "
LIMIT = "error setting rlimit type"
CGROUP = "error setting cgroup config for procHooks process: "
WRITE = 'failed to write "77": write /sys/fs/cgroup'


@pytest.mark.parametrize(
    ("said", "hint"),
    [
        (f"{INIT}mkdir /bin/busybox: not a directory", "the working directory, or something on the way"),
        (f'{INIT}error mounting "/etc" to rootfs at "/a": mount /etc:/a, flags: 0x5000: not a directory',
         "mount a file on a file"),
        (f'{INIT}error mounting "/etc" to rootfs at "/a": mkdir /r/a: read-only file system',
         "cannot be made in a read-only root"),
        (f'{INIT}error mounting "/x" to rootfs at "/a": stat /x: no such file or directory', "is not there"),
        ("mount `/x` to `a`: No such file or directory", "is not there"),
        (f"{INIT}error setting rlimits for ready process: {LIMIT} 7: operation not permitted",
         "the limit nofile cannot be raised so far on this machine; /proc/sys/fs/nr_open is the most"),
        (f"{INIT}{LIMIT} 8: operation not permitted", "the limit memlock cannot be raised"),
        (f"{INIT}open /proc/sys/net/foo/bar: no such file or directory", "no setting net.foo.bar"),
        (f"{INIT}write /proc/sys/net/core/somaxconn: invalid argument",
         "does not take this value of net.core.somaxconn"),
        ("runc create failed: string SCMP_ACT_FOO is not a valid action for seccomp", "seccomp profile"),
        ("runc create failed: invalid configuration: cannot use unified on cgroup v1", "has version 1"),
        (f"{RUNC}unable to apply cgroup configuration: {WRITE}/cpuset.cpus: numerical result out of range",
         "no such processors"),
        (f"{INIT}{CGROUP}cannot set hugetlb limit: container could not join or create cgroup",
         "size of huge pages"),
        (f"{INIT}{CGROUP}{WRITE}/memory/x/memory.limit_in_bytes: invalid argument",
         "does not take this limit"),
        ('failed to write "7": write /sys/fs/cgroup/memory/x/memory.limit_in_bytes: device or resource busy',
         "uses more than that already"),
        (f"{INIT}error running hook #0: error running hook: exit status 1", "a hook of the container's spec"),
        ("container with given ID already exists", "'delete' removes it"),
        ('runc: chdir to cwd ("/x") set in config.json failed: permission denied', "may not enter"),
        ("criu failed: type NOTIFY errno 0", "criu check"),
        ("something that nobody has seen before", "all that it said are in the shim's log"),
    ],
)  # fmt: skip
def test_what_runtimes_refuse_comes_with_what_to_do(said: str, hint: str) -> None:
    assert hint in explain(Failure("create", 1, said), "OCI runtime create failed").hint


def test_a_long_complaint_is_not_looked_through_for_ever() -> None:
    said = 'exec: "/' + "creating mountpoint " * 5000 + '": stat: file name too long'
    assert "create" in explain(Failure("create", 1, said), "OCI runtime create failed").message


def test_a_runtime_that_says_nothing_is_told_by_its_exit_code() -> None:
    assert "'create' ended with code 3 and said nothing" in explain(Failure("create", 3, ""), "x").message


def test_a_missing_runtime_is_told_by_how_it_was_named(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no program")
    assert "apt install crun" in missing("crun").hint
    assert "mend the path" in missing(str(tmp_path / "gone")).hint
    assert "cannot be executed" in missing(str(tmp_path / "text")).hint


def test_signals_have_names_and_numbers() -> None:
    assert [signal_number(name) for name in ("TERM", "SIGKILL", "hup", "34")] == [15, 9, 1, 34]
    for name in ("", "NOPE", "0", "99", "-1"):
        with pytest.raises(InvalidArgument):
            signal_number(name)


def test_a_spec_is_limited_to_what_the_runtime_knows() -> None:
    given = json.dumps({"ociVersion": "1.2.0", "process": {}}).encode()
    assert json.loads(specs.prepare(given, bundle="", newest="1.0.0")[0])["ociVersion"] == "1.0.0"
    assert json.loads(specs.prepare(given, bundle="", newest="1.2.1")[0])["ociVersion"] == "1.2.0"
    assert json.loads(specs.prepare(given, bundle="", newest="")[0])["ociVersion"] == "1.2.0"


def test_checkpoint_and_restore_arguments(tmp_path: Path) -> None:
    options = oci_pb2.CheckpointOptions(
        open_tcp=True, terminal=True, empty_namespaces=["network"], cgroups_mode="soft"
    )
    assert checkpoint_args(options, "/img", tmp_path) == [
        *("--image-path", "/img", "--work-path", str(tmp_path / "criu-work")),
        *("--tcp-established", "--shell-job", "--leave-running"),
        *("--empty-ns", "network", "--manage-cgroups-mode", "soft"),
    ]
    assert restore_args(oci_pb2.Options(criu_work_path="/w"), "/img", "/parent", tmp_path) == [
        *(
            "--detach",
            "--no-subreaper",
            "--image-path",
            "/img",
            "--work-path",
            "/w",
            "--parent-path",
            "/parent",
        )
    ]


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


def _pretend_crun(folder: Path, version: str) -> Path:
    path = folder / "crun"
    path.write_text(f"#!/bin/sh\necho crun version {version}\necho commit: 0\n")
    path.chmod(0o755)
    return path


def _context(state: Path, binary: str = "") -> Any:
    return SimpleNamespace(state=state, config=OciConfig(binary=binary))


def test_a_runtime_that_is_not_installed_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Skip, match=r"^runc is not installed: apt-get install runc$"):
        probe("runc", _context(tmp_path))
    probe("runc", _context(tmp_path, "/nonexistent/runc"))
    (tmp_path / "tasks" / "default" / "left").mkdir(parents=True)
    probe("runc", _context(tmp_path))


@pytest.mark.parametrize(
    ("version", "controllers", "suits"),
    [("1.8.1", "hugetlb", False), ("1.8.1", "", True), ("1.9", "hugetlb", True), ("1.14.4", "cpu", True)],
)
def test_an_old_crun_is_skipped_where_it_starts_nothing(
    version: str, controllers: str, suits: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cgroup.controllers").write_text(controllers + "\n")
    monkeypatch.setattr("orlop_plugins.oci.probe.UNIFIED", tmp_path)
    context = _context(tmp_path, str(_pretend_crun(tmp_path, version)))
    if suits:
        probe("crun", context)
    else:
        with pytest.raises(Skip, match=rf"crun {version} starts no container .*has controllers"):
            probe("crun", context)
