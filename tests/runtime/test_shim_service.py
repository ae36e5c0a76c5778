"""What a shim is to those who call it."""

from __future__ import annotations

import json
import signal
import socket
import stat
from pathlib import Path
from typing import Any

import anyio
import grpc
import grpc.aio
import pytest
from anyio import to_thread

from orlop_plugins.oci.client import GrpcClient, TtrpcShimClient
from orlop_plugins.oci.runtime import OciRuntime
from orlop_plugins.oci.shims import inner_address
from orlop_plugins.ttrpc import TtrpcClient
from orlop_protos.containerd.task.v3 import shim_pb2 as shim_task
from orlop_protos.containerd.task.v3 import shim_pb2_grpc as task_grpc
from orlopd.plugin.runtime import ExecSpec, TaskState
from tests.runtime.conftest import Bench, events_of, process_of


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
