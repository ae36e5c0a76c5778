"""The engine's containers and other clients: ctr, events, prune, and those that go away."""

from __future__ import annotations

import asyncio
import json
import secrets
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import pytest

from orlop import errors
from orlop.values import ContainerSpec, ContainerState, OnCancel
from tests.support.daemon import Daemon, eventually
from tests.support.engine import run, running, said

# ruff: noqa: ASYNC240 - what the tests look at on the disk is small
# ruff: noqa: ASYNC240 - what the tests look at on the disk is small
pytestmark = pytest.mark.timeout(180)


async def test_a_container_of_ctr_is_one_of_the_engines(daemon: Daemon, client: Any) -> None:
    name = f"ctr-{secrets.token_hex(4)}"
    daemon.must(daemon.ctr("run", "-d", "docker.io/library/probe:latest", name, "sleep", "1000"))
    (found,) = await client.containers.list()
    assert (found.id, found.name, found.state) == (name, name, ContainerState.RUNNING)
    assert found.spec is None
    assert await said(client.containers.exec(name, ["echo", "hi"])) == ("hi\n", 0)
    assert (await client.containers.stop(name, timeout=0.2)).code == 137
    await client.containers.remove(name)
    assert name not in daemon.must(daemon.ctr("containers", "ls"))


async def test_a_container_of_the_engine_is_one_of_ctrs(daemon: Daemon, client: Any) -> None:
    async with running(client, labels={"a": "b"}) as container:
        assert container.id in daemon.must(daemon.ctr("containers", "ls"))
        info = json.loads(daemon.must(daemon.ctr("containers", "info", container.id)))
        assert info["SnapshotKey"] == container.id
        assert info["Spec"]["process"]["args"] == ["sleep", "1000"]
        assert info["Labels"]["a"] == "b"
        assert f"{container.id}    {container.pid}" in daemon.must(daemon.ctr("tasks", "ls"))
        daemon.must(daemon.ctr("tasks", "kill", "-s", "9", container.id))
        assert (await client.containers.wait(container.id)).code == 137
        daemon.ctr("tasks", "rm", container.id)
        found = eventually(
            lambda: json.loads(daemon.must(daemon.orlop("ps", "-a", "--output", "json")))[0],
            lambda each: each["exit"] is not None,
            20,
        )
        assert (found["state"], found["exit"]["code"]) == ("stopped", 137)


async def test_cve_2021_41103_the_folders_of_containers_are_closed_to_others(
    daemon: Daemon, client: Any
) -> None:
    async with running(client) as container:
        folder = daemon.root / "containers"
        for each in (folder, folder / daemon.namespace / container.id):
            assert each.stat().st_mode & 0o077 == 0, each


async def test_events_are_told_in_json_too(client: Any) -> None:
    found: list[tuple[str, Any]] = []
    begun = datetime.now(UTC)
    listening = asyncio.create_task(listen(client, found, begun))
    await run(client, "sh", "-c", "exit 3")
    await asyncio.wait_for(listening, 30)
    assert [topic for topic, _ in found] == ["/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"]
    assert found[2][1]["exit_status"] == 3


async def listen(client: Any, found: list[tuple[str, Any]], since: datetime) -> None:
    """Note the events of tasks until one is deleted."""
    async for event in client.system.events(["topic~=^/tasks/"], since=since):
        found.append((event.topic, json.loads(event.json)))
        if event.topic == "/tasks/delete":
            return


async def test_prune_removes_what_has_ended_and_nothing_else(client: Any) -> None:
    async with running(client) as alive:
        made = await client.containers.create(ContainerSpec(image="probe", args=["true"]))
        await said(client.containers.start(made.id, attach=True))
        waiting = await client.containers.create(ContainerSpec(image="probe", args=["true"]))
        pruned = await client.system.prune(containers=True)
        assert pruned.containers == (made.id,)
        assert {each.id for each in await client.containers.list()} == {alive.id, waiting.id}
        usage = await client.system.disk_usage()
        assert usage.content.count >= 3


async def test_processes_outlive_the_daemons_stop_whatever_their_clients_asked(
    fresh_daemon: Daemon, archive: str
) -> None:
    daemon = fresh_daemon
    daemon.must(daemon.orlop("import", archive))
    async with daemon.connect() as client:
        spec = ContainerSpec(image="probe", args=["sleep", "1000"])
        async with client.containers.run(spec, on_cancel=OnCancel.KILL) as session:
            await session.ready()
            async with client.containers.exec(session.id, ["sleep", "1000"]) as inner:
                await inner.ready()
                await anyio.to_thread.run_sync(daemon.stop)
                with pytest.raises(errors.Unavailable):
                    await session.wait()
    assert Path(f"/proc/{session.pid}").exists()
    assert Path(f"/proc/{inner.pid}").exists()
    await anyio.to_thread.run_sync(daemon.start)
    async with daemon.connect() as client:
        (found,) = await client.containers.list()
        assert [found.state, found.pid] == [ContainerState.RUNNING, session.pid]
        await client.containers.remove(session.id, force=True)
    assert not Path(f"/proc/{inner.pid}").exists()


async def test_a_removal_goes_on_when_its_client_goes(client: Any) -> None:
    for delay in (0, 0.005, 0.01, 0.02, 0.04, 0.08):
        container = await client.containers.create(ContainerSpec(image="probe", args=["sleep", "1000"]))
        async with client.containers.start(container.id) as session:
            await session.ready()
        # gRPC answers a cancelled call with an error that only asyncio's own timeout knows for its own.
        with suppress(TimeoutError):
            async with asyncio.timeout(delay):
                await client.containers.remove(container.id, force=True)
        with anyio.fail_after(20):
            while await client.containers.list():
                with suppress(errors.NotFound):
                    await client.containers.remove(container.id, force=True)
