"""Processes beside the main one, and clients beside one another."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import anyio
import pytest

from orlop.values import ContainerState, Output
from orlop_protos.orlop.engine.v1 import containers_pb2, containers_pb2_grpc, stream_pb2
from tests.support.daemon import Daemon, eventually
from tests.support.engine import running, said

# ruff: noqa: ASYNC240 - what the tests look at on the disk is small
# ruff: noqa: ASYNC240 - what the tests look at on the disk is small
pytestmark = pytest.mark.timeout(180)


async def test_an_exec_runs_beside_the_main_process(client: Any) -> None:
    async with running(client, env=["A=1"], user="0:0") as container:
        script = "echo $A $B; pwd; id -u; exit 9"
        session = client.containers.exec(
            container.id, ["sh", "-c", script], env=["B=2"], working_dir="/etc", user="12:13"
        )
        assert await said(session) == ("1 2\n/etc\n12\n", 9)
        assert (await client.containers.get(container.id)).container.state is ContainerState.RUNNING


async def test_an_exec_that_is_cancelled_is_killed(daemon: Daemon, client: Any) -> None:
    async with running(client) as container:
        async with client.containers.exec(container.id, ["sleep", "4321"]) as session:
            await session.ready()
            pid = session.pid
            assert Path(f"/proc/{pid}").exists()
        assert eventually(lambda: Path(f"/proc/{pid}").exists(), lambda there: not there, 20) is False
        listed = daemon.must(daemon.ctr("tasks", "ps", container.id))
        assert "orlop-" not in listed


async def test_a_detached_exec_runs_on_and_is_forgotten_when_it_ends(daemon: Daemon, client: Any) -> None:
    async with running(client) as container:
        async with client.containers.exec(container.id, ["sleep", "1000"], detach=True) as session:
            await session.ready()
        assert Path(f"/proc/{session.pid}").exists()
        os.kill(session.pid, signal.SIGKILL)
        assert eventually(lambda: Path(f"/proc/{session.pid}").exists(), lambda there: not there, 20) is False


async def test_a_detached_exec_runs_on_though_its_client_is_gone_at_once(client: Any) -> None:
    async with running(client) as container:
        for number in range(20):
            async with client.containers.exec(container.id, ["sleep", f"10{number}"], detach=True) as session:
                await session.ready()
        left = {process.args[-1] for process in await client.containers.top(container.id)}
        assert left >= {f"10{number}" for number in range(20)}


async def test_the_end_of_the_requests_is_the_end_of_an_execs_input(daemon: Daemon, client: Any) -> None:
    async with running(client) as container:
        with daemon.channel() as channel:
            options = containers_pb2.ExecOptions(container=container.id, args=["cat"], stdin=True)
            requests = [
                containers_pb2.ExecRequest(options=options),
                containers_pb2.ExecRequest(input=stream_pb2.StreamInput(stdin=b"all of it")),
            ]
            stub: Any = containers_pb2_grpc.ContainerServiceStub(channel)
            metadata = [("containerd-namespace", daemon.namespace)]
            answers = list(stub.Exec(iter(requests), metadata=metadata, timeout=20))
    assert b"".join(each.output.stdout for each in answers) == b"all of it"
    assert answers[-1].output.exit.code == 0


async def test_several_clients_see_the_same_and_detach_without_harm(client: Any) -> None:
    async with running(client, "cat", stdin=True) as container:
        seen: list[bytes] = []

        async def watch() -> None:
            async with client.containers.attach(container.id) as session:
                await session.ready()
                connected.release()
                async for output in session:
                    seen.append(output.data)
                    if isinstance(output, Output) and output.data.endswith(b"!"):
                        await session.detach()
                assert session.detached

        connected = anyio.Semaphore(0)
        with anyio.fail_after(40):
            async with anyio.create_task_group() as group:
                group.start_soon(watch)
                group.start_soon(watch)
                for _ in range(2):
                    await connected.acquire()
                async with client.containers.attach(container.id) as session:
                    await session.ready()
                    await session.write(b"hello!")
                    await session.detach()
                    with anyio.fail_after(30):
                        assert [each async for each in session.events()]
                    assert session.detached
        assert b"".join(seen) == b"hello!" * 2
        assert (await client.containers.get(container.id)).container.state is ContainerState.RUNNING
