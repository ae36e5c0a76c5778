"""What a run says, hears and leaves."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from orlop import errors
from orlop.values import ContainerSpec, ContainerState, OnCancel
from tests.support.engine import run

pytestmark = pytest.mark.timeout(180)


async def test_output_and_exit_code_come_back(client: Any) -> None:
    assert await run(client, "sh", "-c", "echo out; echo err >&2; exit 7") in {
        ("out\nerr\n", 7),
        ("err\nout\n", 7),
    }


async def test_input_goes_in_and_its_end_too(client: Any) -> None:
    session = client.containers.run(ContainerSpec(image="probe", args=["cat"], stdin=True, auto_remove=True))
    async with session:
        await session.write(b"a" * 3_000_000)
        await session.close_stdin()
        assert sum([len(each.data) async for each in session]) == 3_000_000
        assert session.exit.code == 0


async def test_without_stdin_the_process_reads_the_end_of_file(client: Any) -> None:
    assert await run(client, "cat") == ("", 0)


async def test_who_hears_of_the_end_finds_a_container_that_removes_itself_gone(client: Any) -> None:
    for _ in range(3):
        await run(client, "true")
        assert await client.containers.list() == ()


@pytest.mark.parametrize(
    ("command", "error"), [("nosuch", errors.CommandNotFound), ("/etc/passwd", errors.CommandNotExecutable)]
)
async def test_a_container_that_cannot_be_started_is_removed_again(
    client: Any, command: str, error: type[errors.OrlopError]
) -> None:
    async with client.containers.run(ContainerSpec(image="probe", args=[command])) as session:
        with pytest.raises(error):
            await session.wait()
    assert await client.containers.list() == ()


@pytest.mark.parametrize("on_cancel", list(OnCancel))
async def test_cancelling_a_run_does_what_it_was_told(client: Any, on_cancel: OnCancel) -> None:
    spec = ContainerSpec(image="probe", args=["sleep", "1000"])
    async with client.containers.run(spec, on_cancel=on_cancel) as session:
        await session.ready()
    if on_cancel is OnCancel.KILL:
        with anyio.fail_after(30):
            assert (await client.containers.wait(session.id)).code == 137
    else:
        await anyio.sleep(0.5)
        (found,) = await client.containers.list()
        assert found.state is ContainerState.RUNNING


async def test_a_signal_of_the_stream_reaches_the_process(client: Any) -> None:
    script = "trap 'echo caught; exit 4' USR1; echo ready; while :; do sleep 0.05; done"
    async with client.containers.run(ContainerSpec(image="probe", args=["sh", "-c", script])) as session:
        seen = b""
        async for output in session:
            seen += output.data
            if seen == b"ready\n":
                await session.signal("USR1")
        assert (seen, session.exit.code) == (b"ready\ncaught\n", 4)
