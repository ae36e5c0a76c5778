"""Shims outlive whoever started them; what died is noticed, and told once."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio import to_thread

from orlop_plugins.oci.config import OciConfig
from orlop_plugins.oci.runtime import OciRuntime
from orlopd.plugin.errors import FailedPrecondition, NotFound
from orlopd.plugin.mount import mount_points
from orlopd.plugin.runtime import ExecSpec, Stdin, Stdio, Task, TaskState
from orlopd.plugin.values import Mount
from tests.runtime.conftest import Bench, events_of, process_of, read_all, run, topics, wait_for

HELD = Stdio(attach=True, hold_stdin=True)


def is_alive(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    return False


def until(condition: Callable[[], bool], patience: float = 30) -> None:
    end = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


async def eventually(condition: Callable[[], bool]) -> None:
    await to_thread.run_sync(until, condition)


def kill_later(pid: int) -> None:
    time.sleep(0.05)
    os.kill(pid, signal.SIGKILL)


async def only(runtime: OciRuntime) -> Task:
    (task,) = await runtime.recover()
    return task


async def test_a_task_is_found_again_with_its_streams_and_its_history(bench: Bench, tmp_path: Path) -> None:
    log = tmp_path / "log"
    async with bench.open() as first:
        stdio = Stdio(attach=True, hold_stdin=True, log=str(log))
        task = await first.create(bench.spec("a", "sh", stdio=stdio))
        await task.start()
        pid = (await task.status()).pid
    async with bench.open() as second:
        task = await only(second)
        status = await task.status()
        assert (status.state, status.pid, status.stdio) == (TaskState.RUNNING, pid, stdio)
        assert topics(await events_of(task, until="/tasks/start")) == ["create", "start"]
        async with task.attach(stdin=True) as attachment:
            await attachment.send(Stdin(b"echo still here; exit 11\n"))
            out, _, end = await read_all(attachment)
        assert out == b"still here\n"
        assert end is not None
        assert end.code == 11
        assert b"still here" in log.read_bytes()
    async with bench.open() as third:
        task = await only(third)
        assert (await task.wait()).code == 11
        assert topics(await events_of(task, after=2, until="/tasks/exit")) == ["exit"]
        await task.delete()
        assert topics(await events_of(task, after=3)) == ["delete"]


CREATOR = """
import anyio, os, sys
from pathlib import Path
from typing import Any
from tests.runtime.conftest import Bench
async def main():
    bench = Bench(Path(sys.argv[1]), Path(sys.argv[2]))
    async with bench.open() as runtime:
        task = await runtime.create(bench.spec("a", "sh", "-c", "echo one; sleep 1; echo two; sleep 100"))
        await task.start()
        print("started", flush=True)
        await anyio.sleep(100)
anyio.run(main)
"""


def start_and_kill(bench: Bench) -> int:
    """Start a task in another process and kill that; the pid of its one child, the fork server."""
    top = Path(__file__).parents[2]
    with subprocess.Popen(
        [sys.executable, "-c", CREATOR, str(bench.state), str(bench.rootfs)],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(top)},
    ) as creator:
        try:
            assert creator.stdout is not None
            assert creator.stdout.readline() == b"started\n"
            tasks = Path(f"/proc/{creator.pid}/task").glob("*/children")
            (child,) = [pid for children in tasks for pid in children.read_text().split()]
            return int(child)
        finally:
            creator.kill()


async def test_kill_9_of_the_creator_hurts_nobody(bench: Bench) -> None:
    fork_server = await to_thread.run_sync(start_and_kill, bench)
    shim = bench.shim_pid("a")
    assert shim != fork_server
    await eventually(lambda: not is_alive(fork_server))
    assert is_alive(shim)
    await anyio.sleep(1)
    async with bench.open() as runtime:
        task = await only(runtime)
        async with task.attach(scrollback=True) as attachment:
            assert await wait_for(attachment, b"two\n") == b"one\ntwo\n"
        await task.kill(signal.SIGKILL)
        assert (await task.wait()).code == 137
        await task.delete()


@pytest.mark.parametrize("while_away", [False, True], ids=["watched", "away"])
async def test_a_killed_shim_is_cleaned_up_after_and_its_end_is_told_once(
    bench: Bench, rootfs: Path, while_away: bool
) -> None:
    spec = bench.spec("a", "sleep", "1000")
    spec = type(spec)(
        "test", "a", spec.spec, stdio=spec.stdio, rootfs=(Mount("bind", str(rootfs), ("rbind", "ro")),)
    )
    async with bench.open() as runtime:
        task = await runtime.create(spec)
        await task.start()
        pid = (await task.status()).pid
        await task.exec(ExecSpec("e", process_of("sleep", "1000")))
        await task.start("e")
        if not while_away:
            async with anyio.create_task_group() as group:
                group.start_soon(to_thread.run_sync, kill_later, bench.shim_pid("a"))
                assert (await task.wait()).reason == "shim lost"
            assert not is_alive(pid)
    if while_away:
        os.kill(bench.shim_pid("a"), signal.SIGKILL)
        await eventually(lambda: not is_alive(bench.shim_pid("a")))
        assert is_alive(pid)
    async with bench.open() as runtime:
        task = await only(runtime)
        status = await task.status()
        assert status.state is TaskState.STOPPED
        assert status.exit is not None
        assert (status.exit.code, status.exit.reason) == (137, "shim lost")
        assert not is_alive(pid)
        assert mount_points(bench.state) == []
        with pytest.raises(NotFound, match="process already finished"):
            await task.kill(9)
        with pytest.raises(FailedPrecondition, match="shim was lost") as caught:
            await task.pause()
        assert "shim.log" in caught.value.hint
        events = await events_of(task, after=4, until="/tasks/exit")
        events += await events_of(task, after=5, until="/tasks/exit")
        assert [(event.fields["id"], event.fields["exit_status"]) for event in events] == [
            ("e", 137),
            ("a", 137),
        ]
        assert events[1].fields["reason"] == "shim lost"
        assert (await task.delete()).code == 137
        assert topics(await events_of(task, after=6)) == ["delete"]
        assert await run(runtime, bench.spec("a", "echo", "anew")) == (b"anew\n", b"", 0)


async def test_an_exit_code_survives_the_shim(bench: Bench) -> None:
    async with bench.open() as runtime:
        task = await runtime.create(bench.spec("a", "sh", "-c", "exit 23"))
        await task.start()
        assert (await task.wait()).code == 23
    os.kill(bench.shim_pid("a"), signal.SIGKILL)
    async with bench.open() as runtime:
        task = await only(runtime)
        end = await task.wait()
        assert (end.code, end.reason) == (23, "")
        assert (await task.delete()).code == 23


async def test_what_was_half_made_is_removed(bench: Bench) -> None:
    watch = bench.watch()
    (bench.state / "tasks/test/half").mkdir(parents=True)
    async with bench.open() as runtime:
        assert await runtime.recover() == []
    watch.check()


async def test_a_killed_fork_server_is_replaced(bench: Bench) -> None:
    async with bench.open() as runtime:
        task = await runtime.create(bench.spec("a", "sleep", "100"))
        zygote = runtime._launcher._zygote
        assert zygote is not None
        zygote.kill()
        assert await run(runtime, bench.spec("b", "echo", "yes")) == (b"yes\n", b"", 0)
        assert (await task.status()).state is TaskState.CREATED
        await task.delete()


async def test_shims_start_without_a_fork_server_too(bench: Bench) -> None:
    bench.config = OciConfig(fork_server=False)
    async with bench.open() as runtime:
        assert await run(runtime, bench.spec("a", "echo", "slow")) == (b"slow\n", b"", 0)


@pytest.mark.parametrize("fork_server", [True, False])
async def test_what_lies_in_the_root_folder_is_no_module_of_a_shim(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, fork_server: bool
) -> None:
    """A shim works there, and Python would import from where it works."""
    lines: list[list[str]] = []
    real = subprocess.Popen.__init__

    def recording(self: Any, args: Any, *more: Any, **options: Any) -> None:
        lines.append(list(args))
        real(self, args, *more, **options)

    monkeypatch.setattr(subprocess.Popen, "__init__", recording)
    bench.config = OciConfig(fork_server=fork_server)
    async with bench.open() as runtime:
        assert await run(runtime, bench.spec("a", "echo", "yes")) == (b"yes\n", b"", 0)
    started = [line for line in lines if line[0] == sys.executable]
    assert [line[1:3] for line in started] == [["-P", "-m"]]


def links_of(pid: int) -> set[str]:
    found: set[str] = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            found.add(str(link.readlink()))
    return found


async def test_a_shim_keeps_to_itself(bench: Bench) -> None:
    secret = os.open("/etc/passwd", os.O_RDONLY)
    os.set_inheritable(secret, True)
    try:
        async with bench.open() as runtime:
            task = await runtime.create(bench.spec("a", "ls", "-l", "/proc/self/fd"))
            pid = bench.shim_pid("a")
            (socket,) = (bench.state / "s").glob("*")
            assert socket.stat().st_mode & 0o777 == 0o600
            assert "/etc/passwd" not in links_of(pid)
            assert os.getsid(pid) != os.getsid(0)
            async with task.attach() as attachment:
                await task.start()
                out, _, _ = await read_all(attachment)
            assert {line.split()[-3] for line in out.splitlines() if b"->" in line} <= {
                b"0",
                b"1",
                b"2",
                b"3",
            }
            await task.delete()
    finally:
        os.close(secret)
