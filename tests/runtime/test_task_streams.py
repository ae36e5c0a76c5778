"""What a task's processes say and hear, through pipes and a terminal, and by several clients."""

from __future__ import annotations

import os

import anyio
import pytest

from orlop_plugins.oci.config import OciConfig
from orlop_plugins.oci.runtime import OciRuntime
from orlopd.plugin.errors import FailedPrecondition, ResourceExhausted
from orlopd.plugin.runtime import Detach, Detached, ExecSpec, Resize, Stdin, Stdio, TaskState
from tests.runtime.conftest import Bench, process_of, read_all, run, wait_for

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


async def test_output_before_the_end_is_never_lost_to_a_grandchild(bench: Bench, runtime: OciRuntime) -> None:
    task = await runtime.create(bench.spec("a", "sleep", "100"))
    await task.start()
    await task.exec(ExecSpec("e", process_of("sh", "-c", "seq 5000; sleep 60 & exit 2"), Stdio(attach=True)))
    with anyio.fail_after(30):  # and not the grandchild's 60 s
        async with task.attach("e") as attachment:
            await task.start("e")
            out, _, end = await read_all(attachment)
    assert out.splitlines()[-1] == b"5000"
    assert end is not None
    assert end.code == 2
    await task.kill(9)
    await task.wait()
    await task.delete()


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


@pytest.mark.parametrize("typing", [False, True])
async def test_a_client_that_reads_late_gets_all_of_a_task_that_was_deleted_meanwhile(
    bench: Bench, runtime: OciRuntime, typing: bool
) -> None:
    size = 2_000_000
    task = await runtime.create(bench.spec("a", "sh", "-c", f"head -c {size} /dev/zero; exit 7", stdio=HELD))
    async with task.attach(stdin=True) as attachment:
        await task.start()
        assert (await task.wait()).code == 7
        await task.delete()
        if typing:
            await attachment.send(Stdin(b"x"))
        out, _, end = await read_all(attachment)
    assert (len(out), end.code if end else None) == (size, 7)


async def test_clients_that_go_leave_nothing_in_a_shim_whatever_they_had_sent(
    bench: Bench, runtime: OciRuntime
) -> None:
    """More than the process reads, so that their connections are not read any more."""
    task = await runtime.create(bench.spec("a", "sleep", "100", stdio=HELD))
    await task.start()
    shim = f"/proc/{bench.shim_pid('a')}/fd"
    before = len(os.listdir(shim))  # noqa: PTH208
    for _ in range(5):
        async with task.attach(stdin=True) as attachment:
            with anyio.move_on_after(0.3):
                await attachment.send(Stdin(bytes(4 << 20)))
    with anyio.fail_after(10):
        while len(os.listdir(shim)) > before:  # noqa: ASYNC110, PTH208
            await anyio.sleep(0.05)
    await task.kill(9)
    await task.wait()
    await task.delete()
