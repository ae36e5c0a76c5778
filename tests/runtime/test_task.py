"""A task's life under its shim, with pipes and with a terminal."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import anyio
import grpc
import grpc.aio
import pytest
from anyio import to_thread

from orlop_plugins.oci.client import GrpcClient, TtrpcShimClient
from orlop_plugins.oci.config import OciConfig
from orlop_plugins.oci.runtime import OciRuntime
from orlop_plugins.oci.shims import inner_address
from orlop_plugins.ttrpc import TtrpcClient
from orlop_protos.containerd.runc.v1 import oci_pb2
from orlop_protos.containerd.task.v3 import shim_pb2 as shim_task
from orlop_protos.containerd.task.v3 import shim_pb2_grpc as task_grpc
from orlop_protos.io.containerd.cgroups.v1 import cgroup1_pb2
from orlopd.core.logs import read_log
from orlopd.plugin.errors import (
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
)
from orlopd.plugin.runtime import Detach, Detached, ExecSpec, Resize, Stdin, Stdio, TaskState
from orlopd.plugin.values import Mount, TypedBytes
from tests.runtime.conftest import Bench, events_of, process_of, read_all, run, spec_of, topics, wait_for

HELD = Stdio(attach=True, hold_stdin=True)
TERMINAL = Stdio(attach=True, hold_stdin=True, terminal=True)
READERS = 5


async def test_output_and_exit_code_come_through_pipes(bench: Bench, runtime: OciRuntime) -> None:
    spec = bench.spec("a", "sh", "-c", "echo out; echo err >&2; exit 7")
    assert await run(runtime, spec) == (b"out\n", b"err\n", 7)


async def test_stdin_ends_where_its_client_ends_it(bench: Bench, runtime: OciRuntime) -> None:
    task = await runtime.create(bench.spec("a", "cat", stdio=HELD))
    async with task.attach(stdin=True) as attachment:
        await task.start()
        await attachment.send(Stdin(b"one\n"))
        assert await wait_for(attachment, b"one\n") == b"one\n"
        await attachment.send(Stdin(b"two\n", end=True))
        with pytest.raises(FailedPrecondition):
            await attachment.send(Stdin(b"three\n"))
        out, err, end = await read_all(attachment)
    assert (out, err, end.code if end else None) == (b"two\n", b"", 0)
    await task.delete()


async def test_a_large_stream_goes_in_and_comes_back_whole(bench: Bench, runtime: OciRuntime) -> None:
    blob = os.urandom(8 << 20)
    task = await runtime.create(bench.spec("a", "cat", stdio=HELD))
    async with task.attach(stdin=True) as attachment, anyio.create_task_group() as group:
        await task.start()
        group.start_soon(attachment.send, Stdin(blob, end=True))
        out, _, end = await read_all(attachment)
        assert end is not None
        assert out == blob
    await task.delete()


async def test_input_that_nobody_wants_does_no_harm(bench: Bench, runtime: OciRuntime) -> None:
    task = await runtime.create(bench.spec("a", "sh", "-c", "exec <&-; sleep .1; exit 3", stdio=HELD))
    async with task.attach(stdin=True) as attachment:
        await task.start()
        await attachment.send(Stdin(b"x" * (1 << 20)))
        _, _, end = await read_all(attachment)
    assert end is not None
    assert end.code == 3
    await task.delete()


async def test_a_terminal_has_a_size_a_line_editor_and_an_interrupt(
    bench: Bench, runtime: OciRuntime
) -> None:
    task = await runtime.create(bench.spec("a", "sh", stdio=TERMINAL))
    async with task.attach(stdin=True) as attachment:
        assert attachment.terminal
        await attachment.send(Resize(123, 45))
        await task.start()
        await attachment.send(Stdin(b"stty size\n"))
        await wait_for(attachment, b"45 123\r\n")
        await task.resize(80, 24)
        await attachment.send(Stdin(b"sh -c 'stty size; echo in $((1+1)); sleep 100'\n"))
        assert b"24 80\r\n" in await wait_for(attachment, b"in 2\r\n")
        await attachment.send(Stdin(b"\x03"))
        await wait_for(attachment, b"# ")
        await attachment.send(Stdin(b"echo $?; exit 5\n"))
        out, _, end = await read_all(attachment)
    assert b"130\r\n" in out
    assert end is not None
    assert end.code == 5
    await task.delete()


async def test_the_window_of_the_client_that_types_counts(bench: Bench, runtime: OciRuntime) -> None:
    task = await runtime.create(bench.spec("a", "sh", stdio=TERMINAL))
    async with task.attach(stdin=True) as wide, task.attach(stdin=True) as tall:
        await wide.send(Resize(200, 20))
        await task.start()
        await wide.send(Stdin(b"stty size\n"))
        for client in (wide, tall):
            await wait_for(client, b"20 200\r\n")
        await tall.send(Resize(40, 90))
        await tall.send(Stdin(b"stty size\n"))
        for client in (wide, tall):
            await wait_for(client, b"90 40\r\n")
        await wide.send(Stdin(b"stty size; exit\n"))
        out, _, _ = await read_all(tall)
    assert b"20 200\r\n" in out
    await task.delete()


async def test_the_end_of_input_ends_a_terminals_shell(bench: Bench, runtime: OciRuntime) -> None:
    task = await runtime.create(bench.spec("a", "sh", stdio=TERMINAL))
    async with task.attach(stdin=True) as attachment:
        await task.start()
        await attachment.send(Stdin(b"echo hi $((1+2))\n", end=True))
        out, _, end = await read_all(attachment)
    assert b"hi 3\r\n" in out
    assert end is not None
    assert end.code == 0
    await task.delete()


async def test_detach_leaves_the_process_and_a_late_client_gets_what_was_said(
    bench: Bench, runtime: OciRuntime
) -> None:
    task = await runtime.create(bench.spec("a", "sh", stdio=HELD))
    async with task.attach(stdin=True) as first:
        await task.start()
        await first.send(Stdin(b"echo early\n"))
        await wait_for(first, b"early\n")
        await first.send(Detach())
        assert [type(item) async for item in first.output()] == [Detached]
    assert (await task.status()).state is TaskState.RUNNING
    async with task.attach(stdin=True, scrollback=True) as second, task.attach() as third:
        await wait_for(second, b"early\n")
        await second.send(Stdin(b"echo both; exit 4\n"))
        results = [await read_all(second), await read_all(third)]
    assert [(out, end.code if end else None) for out, _, end in results] == [(b"both\n", 4)] * 2
    async with task.attach(scrollback=True) as late:
        out, _, end = await read_all(late)
    assert out == b"early\nboth\n"
    assert end is not None
    await task.delete()


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


@pytest.fixture
def recorder(tmp_path: Path) -> Path:
    """The real runtime under another name, which writes down what it is called with."""
    path = tmp_path / "recorder"
    path.write_text(f'#!/bin/sh\necho "$@" >>{tmp_path}/calls\nexec runc "$@"\n')
    path.chmod(0o755)
    return path


async def test_options_reach_the_runtimes_command_line(
    bench: Bench, runtime: OciRuntime, recorder: Path, tmp_path: Path
) -> None:
    options = oci_pb2.Options(
        binary_name=str(recorder), root=str(tmp_path / "root"), no_pivot_root=True, no_new_keyring=True
    )
    packed = TypedBytes(options.DESCRIPTOR.full_name, options.SerializeToString())
    task = await runtime.create(replace(bench.spec("a", "sleep", "100"), options=packed))
    assert (tmp_path / "root/test/a").is_dir()
    await task.delete()
    calls = (tmp_path / "calls").read_text().splitlines()
    (create,) = [words for words in map(str.split, calls) if "create" in words]
    assert {"--no-pivot", "--no-new-keyring"} <= set(create)
    made = [words for words in map(str.split, calls) if "--version" not in words]
    assert {words[words.index("--root") + 1] for words in made} == {str(tmp_path / "root/test")}


async def test_pipes_belong_to_the_group_that_the_options_name(bench: Bench, runtime: OciRuntime) -> None:
    """Their user is changed once more, by the runtime, to that of the process."""
    options = oci_pb2.Options(io_uid=7, io_gid=8)
    packed = TypedBytes(options.DESCRIPTOR.full_name, options.SerializeToString())
    owner = ("busybox", "stat", "-L", "-c", "%u %g", "/proc/self/fd/1", "/proc/self/fd/2")
    assert await run(runtime, replace(bench.spec("a", *owner), options=packed)) == (b"0 8\n0 8\n", b"", 0)
    assert await run(runtime, bench.spec("b", *owner)) == (b"0 0\n0 0\n", b"", 0)


async def test_any_runtime_can_be_named_by_its_path(
    bench: Bench, runtime: OciRuntime, recorder: Path, tmp_path: Path
) -> None:
    assert await run(runtime, replace(bench.spec("a", "echo", "hi"), runtime=str(recorder))) == (
        b"hi\n", b"", 0
    )  # fmt: skip
    assert " create " in (tmp_path / "calls").read_text()
    with pytest.raises(NotFound, match="is not there"):
        await runtime.create(replace(bench.spec("a", "true"), runtime=str(tmp_path / "nosuch")))


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


async def test_output_before_the_end_is_never_lost_to_a_grandchild(bench: Bench, runtime: OciRuntime) -> None:
    task = await runtime.create(bench.spec("a", "sleep", "100"))
    await task.start()
    await task.exec(ExecSpec("e", process_of("sh", "-c", "seq 5000; sleep 60 & exit 2"), Stdio(attach=True)))
    with anyio.fail_after(5):
        async with task.attach("e") as attachment:
            await task.start("e")
            out, _, end = await read_all(attachment)
    assert out.splitlines()[-1] == b"5000"
    assert end is not None
    assert end.code == 2
    await task.kill(9)
    await task.wait()
    await task.delete()


async def test_the_log_has_every_byte_in_cri_format(
    bench: Bench, runtime: OciRuntime, tmp_path: Path
) -> None:
    log = tmp_path / "deep/output.log"
    script = (
        "echo one; echo two >&2; printf tail; yes 123456789 | head -c 40000 | tr -d '\\n'; echo; printf end"
    )
    out, err, code = await run(
        runtime, bench.spec("a", "sh", "-c", script, stdio=Stdio(attach=True, log=str(log)))
    )
    assert code == 0
    seen = {b"stdout": b"", b"stderr": b""}
    for line in log.read_bytes().splitlines():
        stamp, stream, tag, text = line.split(b" ", 3)
        assert stamp.endswith(b"Z")
        assert len(stamp) == len("2006-01-02T15:04:05.999999999Z")
        assert len(text) <= 16384
        seen[stream] += text + (b"\n" if tag == b"F" else b"")
    assert seen == {b"stdout": out, b"stderr": err}


@pytest.mark.parametrize("form", ["cri", "json"])
async def test_the_log_is_rotated_by_size_and_count(
    bench: Bench, tmp_path: Path, form: Literal["cri", "json"]
) -> None:
    bench.config = OciConfig(log_format=form, log_max_size=20_000, log_max_files=2)
    log = tmp_path / "log"
    async with bench.open() as runtime:
        spec = bench.spec("a", "seq", "5000", stdio=Stdio(attach=True, log=str(log)))
        out, _, _ = await run(runtime, spec)
    assert sorted(os.listdir(tmp_path)) == ["log", "log.1", "log.2"]  # noqa: PTH208
    assert (log.read_bytes()[:1] == b"{") is (form == "json")
    numbers = [int(entry.data) async for entry in read_log(log)]
    assert numbers == list(range(numbers[0], 5001)), "a line is lost or doubled at a rotation"
    assert numbers[0] > 1
    assert out.splitlines()[-1] == b"5000"
    for path in (Path(f"{log}.2"), Path(f"{log}.1")):
        assert 20_000 <= path.stat().st_size < 20_100


async def test_one_client_of_many_that_does_not_read_is_cut_off_and_the_container_goes_on(
    bench: Bench,
) -> None:
    bench.config = OciConfig(client_stall=0.5)
    async with bench.open() as runtime:
        task = await runtime.create(bench.spec("a", "sh", "-c", "yes | head -c 20000000; exit 8"))
        async with task.attach() as idle:
            came: list[tuple[int, int]] = []

            async def reader() -> None:
                async with task.attach() as attachment:
                    attached.release()
                    out, _, end = await read_all(attachment)
                assert end is not None
                came.append((len(out), end.code))

            attached = anyio.Semaphore(0)
            with anyio.fail_after(20):
                async with anyio.create_task_group() as group:
                    for _ in range(READERS):
                        group.start_soon(reader)
                    for _ in range(READERS):
                        await attached.acquire()
                    await task.start()
            assert came == [(20000000, 8)] * READERS
            with pytest.raises(ResourceExhausted, match="did not read"):
                await read_all(idle)
        await task.delete()


async def test_metrics_and_limits(bench: Bench, runtime: OciRuntime) -> None:
    task = await runtime.create(bench.spec("a", "sleep", "100"))
    await task.start()
    with anyio.fail_after(10):
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


async def test_a_shims_socket_speaks_grpc_and_begins_to_when_somebody_does(
    bench: Bench, runtime: OciRuntime
) -> None:
    made = await runtime.create(bench.spec("a", "sleep", "100"))
    await made.start()
    shim = bench.shim_pid("a")
    address = json.loads((bench.folder("a") / "task.json").read_bytes())["address"]
    assert _mode(inner_address(address)) == 0
    assert _threads(shim) == 1
    with socket.socket(socket.AF_UNIX) as silent, socket.socket(socket.AF_UNIX) as halting:
        for other in (silent, halting):
            await to_thread.run_sync(other.connect, address)
        await to_thread.run_sync(halting.sendall, b"PR")
        assert (await made.status()).state is TaskState.RUNNING
        for path in (address, address, inner_address(address)):
            async with grpc.aio.insecure_channel(f"unix:{path}") as channel:
                stub: Any = task_grpc.TaskStub(channel)
                state = await stub.State(shim_task.StateRequest(id="a"), timeout=10)
                assert (state.pid, state.bundle) == ((await made.status()).pid, str(bench.folder("a")))
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await stub.State(shim_task.StateRequest(id="b"), timeout=10)
                assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    for path in (address, inner_address(address)):
        assert _mode(path) == 0o600
    await made.kill(signal.SIGKILL)
    await made.wait()
    await made.delete()
    assert _mode(inner_address(address)) == 0


def _mode(path: str) -> int:
    """Who may use a file; 0 for one that is not there."""
    try:
        return stat.S_IMODE(Path(path).stat().st_mode)
    except FileNotFoundError:
        return 0


def _threads(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/task").iterdir()))


async def test_those_who_give_up_waiting_leave_nothing_in_the_shim(bench: Bench, runtime: OciRuntime) -> None:
    task = await runtime.create(bench.spec("a", "sleep", "100"))
    await task.start()
    client: Any = task._client  # type: ignore[attr-defined]  # pyright: ignore
    for _ in range(20):
        with anyio.move_on_after(0.01):
            await task.wait()
    assert len(client._waits) == 1
    ends: list[int] = []
    async with anyio.create_task_group() as group:

        async def wait() -> None:
            ends.append((await task.wait()).code)

        for _ in range(3):
            group.start_soon(wait)
        await anyio.sleep(0.05)
        await task.kill(signal.SIGKILL)
    assert (ends, client._waits) == ([137] * 3, {})
    await task.delete()


async def test_a_shim_is_told_which_of_its_events_it_need_not_keep(
    bench: Bench, runtime: OciRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[int] = []
    real = TtrpcClient.ask

    async def recording(client: Any, service: str, method: str, request: Any, *args: Any, **more: Any) -> Any:
        if method == "NextEvents":
            told.append(request.after)
        return await real(client, service, method, request, *args, **more)

    monkeypatch.setattr(TtrpcClient, "ask", recording)
    task = await runtime.create(bench.spec("a", "sleep", "100"))
    found: list[Any] = []
    async with anyio.create_task_group() as group:

        async def follow() -> None:
            found.extend(await events_of(task))

        group.start_soon(follow)
        await task.start()
        for number in range(3):
            await task.exec(ExecSpec(f"e{number}", process_of("true")))
            await task.start(f"e{number}")
            await task.wait(f"e{number}")
        await task.kill(9)
        await task.wait()
        await task.delete()
    assert [event.sequence for event in found] == list(range(1, len(found) + 1)), "one is lost or told twice"
    assert told[0] == 0
    assert told == sorted(set(told)), "each says what was handled since"
    assert told[-1] >= len(found) - 2


@pytest.mark.parametrize("protocol", ["ttrpc", "grpc"])
async def test_a_shim_tells_who_it_is_and_does_not_shut_down_under_a_container(
    bench: Bench, runtime: OciRuntime, protocol: str
) -> None:
    made = await runtime.create(bench.spec("a", "sleep", "100"))
    pid = await made.start()
    address = json.loads((bench.folder("a") / "task.json").read_bytes())["address"]
    client = GrpcClient(address) if protocol == "grpc" else TtrpcShimClient(address)
    try:
        found, _ = await client.ask("Connect", shim_task.ConnectRequest(id="a"), 10)
        assert (found.shim_pid, found.task_pid) == (bench.shim_pid("a"), pid)
        assert found.version
        await client.ask("Shutdown", shim_task.ShutdownRequest(id="a"), 10)
        found, _ = await client.ask("Connect", shim_task.ConnectRequest(id="a"), 10)
        assert found.task_pid == pid
    finally:
        await client.close()
    await made.kill(signal.SIGKILL)
    await made.wait()
    await made.delete()
