"""A task from create to delete, its processes, limits and events."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from orlop_plugins.oci.config import OciConfig
from orlop_plugins.oci.runtime import OciRuntime
from orlop_protos.containerd.runc.v1 import oci_pb2
from orlop_protos.io.containerd.cgroups.v1 import cgroup1_pb2
from orlopd.plugin.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound
from orlopd.plugin.runtime import ExecSpec, Resize, Stdin, Stdio, TaskState
from orlopd.plugin.values import Mount, TypedBytes
from tests.runtime.conftest import Bench, events_of, process_of, read_all, run, spec_of, topics


async def test_states_and_events_follow_containerd(bench: Bench, runtime: OciRuntime) -> None:
    task = await runtime.create(bench.spec("a", "sleep", "100"))
    status = await task.status()
    assert (status.state, status.exit) == (TaskState.CREATED, None)
    assert status.pid == await task.start()
    await task.exec(ExecSpec("e", process_of("sh", "-c", "exit 9")))
    with pytest.raises(AlreadyExists):
        await task.exec(ExecSpec("e", process_of("true")))
    exec_pid = await task.start("e")
    exec_end = await task.wait("e")
    assert exec_end.code == 9
    assert (await task.status("e")).state is TaskState.STOPPED
    await task.delete("e")
    with pytest.raises(NotFound):
        await task.status("e")
    await task.pause()
    assert (await task.status()).state is TaskState.PAUSED
    with pytest.raises(FailedPrecondition):
        await task.pause()
    await task.resume()
    with pytest.raises(FailedPrecondition, match="cannot delete a running process"):
        await task.delete()
    await task.kill(signal.SIGKILL)
    end = await task.wait()
    assert end.code == 137
    with pytest.raises(NotFound, match="process already finished"):
        await task.kill(signal.SIGTERM)
    assert await task.delete() == end
    events = await events_of(task)
    assert topics(events) == [
        *("create", "start", "exec-added", "exec-started", "exit", "paused", "resumed", "exit", "delete")
    ]
    assert [event.sequence for event in events] == list(range(1, 10))
    assert events[4].fields == {
        "container_id": "a",
        "id": "e",
        "pid": exec_pid,
        "exit_status": 9,
        "exited_at": exec_end.at,
    }
    with pytest.raises(NotFound):
        await task.status()


@pytest.mark.parametrize("terminal", [False, True], ids=["pipes", "terminal"])
async def test_exec_runs_beside_the_main_process(bench: Bench, runtime: OciRuntime, terminal: bool) -> None:
    task = await runtime.create(bench.spec("a", "sleep", "100"))
    await task.start()
    await task.exec(ExecSpec("e", process_of("sh"), Stdio(attach=True, hold_stdin=True, terminal=terminal)))
    async with task.attach("e", stdin=True) as attachment:
        await attachment.send(Resize(99, 33))
        await task.start("e")
        assert {entry.exec_id for entry in await task.pids()} == {"", "e"}
        await attachment.send(Stdin(b"echo $$; stty size; exit 6\n", end=not terminal))
        out, _, end = await read_all(attachment)
    assert end is not None
    assert end.code == 6
    assert (b"33 99\r\n" in out) == terminal
    await task.delete("e")
    await task.kill(9)
    await task.wait()
    await task.delete()


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("nosuch", "COMMAND_NOT_FOUND"),
        ("/bin/nosuch", "COMMAND_NOT_FOUND"),
        ("/etc/passwd", "COMMAND_NOT_EXECUTABLE"),
        ("/etc", "COMMAND_NOT_EXECUTABLE"),
    ],
)
async def test_a_program_that_cannot_run_is_told_from_other_failures(
    bench: Bench, runtime: OciRuntime, program: str, reason: str
) -> None:
    with pytest.raises(FailedPrecondition) as caught:
        await run(runtime, bench.spec("a", program))
    assert caught.value.reason == reason, caught.value.message
    task = await runtime.create(bench.spec("b", "sleep", "100"))
    await task.start()
    await task.exec(ExecSpec("e", process_of(program)))
    with pytest.raises(FailedPrecondition) as caught:
        await task.start("e")
    assert caught.value.reason == reason, caught.value.message
    assert (await task.wait("e")).code == (127 if reason == "COMMAND_NOT_FOUND" else 126)
    await task.delete("e")
    await task.kill(9)
    await task.wait()
    await task.delete()


async def test_a_failed_create_leaves_nothing(bench: Bench, runtime: OciRuntime, tmp_path: Path) -> None:
    spec = bench.spec("a", "true")
    rootless = json.loads(spec.spec) | {"root": {"path": "/nonexistent"}}
    with pytest.raises(FailedPrecondition, match="OCI runtime create failed"):
        await runtime.create(replace(spec, spec=json.dumps(rootless).encode()))
    assert not bench.folder("a").exists()
    missing = oci_pb2.Options(binary_name="no-such-runtime")
    options = TypedBytes("containerd.runc.v1.Options", missing.SerializeToString())
    with pytest.raises(NotFound, match="no-such-runtime") as caught:
        await runtime.create(replace(spec, options=options))
    assert "install it" in caught.value.hint
    for name in ("", "../x", "a/b", "-a", "x" * 77):
        with pytest.raises(InvalidArgument):
            await runtime.create(replace(spec, id=name))
    with pytest.raises(InvalidArgument):
        await runtime.create(replace(spec, spec=b"[]"))
    assert await run(runtime, bench.spec("a", "true")) == (b"", b"", 0)


async def test_the_rootfs_is_mounted_for_the_task_and_unmounted_after(
    bench: Bench, runtime: OciRuntime, rootfs: Path
) -> None:
    spec = bench.spec("a", "ls", "/bin/busybox")
    config = json.loads(spec.spec) | {"root": {"path": "rootfs", "readonly": True}}
    mounts = (Mount("bind", str(rootfs), ("rbind", "ro")),)
    given = replace(spec, spec=json.dumps(config).encode(), rootfs=mounts)
    assert await run(runtime, given) == (b"/bin/busybox\n", b"", 0)


async def test_metrics_and_limits(bench: Bench, runtime: OciRuntime) -> None:
    task = await runtime.create(bench.spec("a", "sleep", "100"))
    await task.start()
    with anyio.fail_after(30):
        while True:  # the runtime's own threads go when it becomes the program
            stats = await task.stats()
            assert stats.type_url == "io.containerd.cgroups.v1.Metrics"
            metrics = cgroup1_pb2.Metrics.FromString(stats.value)
            if metrics.pids.current == 1:
                break
            await anyio.sleep(0.02)
    assert metrics.memory.usage.usage > 0
    await task.update(json.dumps({"memory": {"limit": 64 << 20}, "pids": {"limit": 7}}).encode(), {})
    metrics = cgroup1_pb2.Metrics.FromString((await task.stats()).value)
    assert (metrics.memory.usage.limit, metrics.pids.limit) == (64 << 20, 7)
    await task.kill(9)
    await task.wait()
    with pytest.raises(NotFound):
        await task.stats()
    await task.delete()


async def test_an_out_of_memory_kill_is_told(bench: Bench, runtime: OciRuntime) -> None:
    spec = bench.spec("a", "sh", "-c", "x=$(yes | head -c 200000000)")
    config = json.loads(spec.spec)
    config["linux"]["resources"]["memory"] = {"limit": 16 << 20, "swap": 16 << 20}
    task = await runtime.create(replace(spec, spec=json.dumps(config).encode()))
    await task.start()
    end = await task.wait()
    assert (end.code, end.reason) == (137, "killed by the kernel: out of memory")
    await task.delete()
    assert topics(await events_of(task))[-3:] == ["oom", "exit", "delete"]


async def test_deleting_a_created_task_kills_it(bench: Bench, runtime: OciRuntime) -> None:
    task = await runtime.create(bench.spec("a", "sleep", "100"))
    assert (await task.delete()).code == 137
    assert topics(await events_of(task)) == ["create", "exit", "delete"]


def command_lines() -> list[bytes]:
    found: list[bytes] = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            found.append(path.read_bytes())
    return found


async def test_containers_without_a_pid_namespace_leave_no_process(bench: Bench, runtime: OciRuntime) -> None:
    spec = bench.spec("a", "sh", "-c", "sleep 1234 & sleep 1235 & exit 1")
    config = json.loads(spec.spec)
    config["linux"]["namespaces"] = [n for n in config["linux"]["namespaces"] if n["type"] != "pid"]
    config["mounts"][0] = {"destination": "/proc", "type": "bind", "source": "/proc", "options": ["rbind"]}
    out, err, code = await run(runtime, replace(spec, spec=json.dumps(config).encode()))
    assert (out, err, code) == (b"", b"", 1)
    assert not [line for line in command_lines() if b"sleep\x00123" in line]


async def test_a_bundle_is_run_as_it_is(
    bench: Bench, runtime: OciRuntime, rootfs: Path, tmp_path: Path
) -> None:
    config = tmp_path / "config.json"
    shutil.copytree(rootfs, tmp_path / "root", symlinks=True)
    config.write_bytes(spec_of(Path("root"), "echo", "bundled"))
    before = config.read_bytes()
    given = replace(bench.spec("a"), spec=b"", bundle=str(tmp_path))
    assert await run(runtime, given) == (b"bundled\n", b"", 0)
    assert config.read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == ["config.json", "root"]  # noqa: PTH208


STARTS_BEFORE_ITS_TIME = """#!/bin/sh
case "$*" in *" start "*) ;; *) exec runc "$@" ;; esac
for id; do :; done
kill -STOP $(cat {bundle}/init.pid)
cat "$2/$id/exec.fifo" >/dev/null 2>&1 &
"""
"""Says "started" while the runtime's own init still stands before the program."""


async def test_a_signal_right_after_the_start_reaches_the_program_and_not_the_runtime(bench: Bench) -> None:
    binary = bench.state / "early"
    binary.write_text(STARTS_BEFORE_ITS_TIME.format(bundle=bench.folder("a")))
    binary.chmod(0o755)
    bench.config = OciConfig(binary=str(binary))
    async with bench.open() as runtime:
        task = await runtime.create(bench.spec("a", "sleep", "100"))
        pid = await task.start()
        async with anyio.create_task_group() as group:
            group.start_soon(task.kill, signal.SIGTERM)
            await anyio.sleep(0.1)
            os.kill(pid, signal.SIGCONT)
        # The first process of a pid namespace ignores it.
        assert (await task.status()).state is TaskState.RUNNING
        await task.kill(signal.SIGKILL)
        assert (await task.wait()).code == 137
        await task.delete()
