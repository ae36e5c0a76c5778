"""Start, stop, pause, and what is told of a container meanwhile."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import anyio
import pytest

from orlop import errors
from orlop.values import ContainerSpec, ContainerState, Exit, Resources
from tests.support.daemon import Daemon
from tests.support.engine import logged, reason, running, said

pytestmark = pytest.mark.timeout(180)


async def test_a_container_that_was_never_started(client: Any) -> None:
    made = await client.containers.create(ContainerSpec(image="probe", args=["true"]))
    assert made.state is ContainerState.CREATED
    with pytest.raises(errors.FailedPrecondition) as caught:
        await client.containers.wait(made.id)
    assert reason(caught) == "CONTAINER_NOT_STARTED"
    assert await client.containers.stop(made.id) is None


async def test_stop_asks_and_kills_when_the_time_is_over(client: Any) -> None:
    polite = "trap 'exit 3' TERM; echo ready; while :; do sleep 0.05; done"
    async with running(client, "sh", "-c", polite) as container:
        await logged(client, container.id, b"ready\n")
        ended = await client.containers.stop(container.id, timeout=30)
        assert isinstance(ended, Exit)
        assert ended.code == 3
    async with running(client) as container:  # the first process of a pid namespace ignores SIGTERM
        with anyio.fail_after(30):
            assert (await client.containers.stop(container.id, timeout=0.5)).code == 137


async def test_stop_sends_the_signal_that_was_asked_for(client: Any) -> None:
    script = "trap 'exit 5' QUIT; echo ready; while :; do sleep 0.05; done"
    async with running(client, "sh", "-c", script, stop_signal="SIGQUIT") as container:
        await logged(client, container.id, b"ready\n")
        assert (await client.containers.stop(container.id, timeout=30)).code == 5


async def test_stop_sends_the_signal_that_the_image_names(
    daemon: Daemon, client: Any, tmp_path: Path
) -> None:
    (tmp_path / "bin").mkdir()
    shutil.copy("/bin/busybox", tmp_path / "bin/sh")
    build = ("image", "build", "--from-dir", tmp_path, "--stop-signal", "USR1", "stopper")
    daemon.must(daemon.orlop(*build))
    script = "trap 'exit 6' USR1; echo ready; while :; do read -t 1 line </dev/zero; done"
    spec = ContainerSpec(image="stopper", args=["sh", "-c", script], auto_remove=True)
    try:
        async with client.containers.run(spec) as session:
            async for said in session:
                assert said.data == b"ready\n"
                ended = await client.containers.stop(session.id, timeout=20)
                assert ended.code == 6
    finally:
        daemon.must(daemon.orlop("rmi", "stopper"))


async def test_a_stopped_container_starts_again_and_its_log_goes_on(client: Any) -> None:
    made = await client.containers.create(ContainerSpec(image="probe", args=["sh", "-c", "echo run; exit 2"]))
    for _ in range(2):
        assert await said(client.containers.start(made.id, attach=True)) == ("run\n", 2)
    found = (await client.containers.get(made.id)).container
    assert (found.state, found.exit.code) == (ContainerState.STOPPED, 2)
    assert found.started_at < found.exit.at
    assert [line.data async for line in client.containers.logs(made.id)] == [b"run\n", b"run\n"]
    assert [line.data async for line in client.containers.logs(made.id, tail=1)] == [b"run\n"]


async def test_what_runs_is_neither_started_nor_removed(client: Any) -> None:
    async with running(client) as container:
        async with client.containers.start(container.id) as session:
            with pytest.raises(errors.FailedPrecondition) as caught:
                await session.ready()
        assert reason(caught) == "CONTAINER_RUNNING"
        with pytest.raises(errors.FailedPrecondition) as caught:
            await client.containers.remove(container.id)
        assert reason(caught) == "CONTAINER_RUNNING"


async def test_a_frozen_container_thaws_or_is_stopped(client: Any) -> None:
    script = "trap 'exit 6' TERM; echo ready; while :; do sleep 0.05; done"
    async with running(client, "sh", "-c", script) as container:
        await logged(client, container.id, b"ready\n")
        await client.containers.pause(container.id)
        assert (await client.containers.get(container.id)).container.state is ContainerState.PAUSED
        async with client.containers.exec(container.id, ["true"]) as session:
            with pytest.raises(errors.FailedPrecondition) as caught:
                await session.wait()
        assert reason(caught) == "CONTAINER_PAUSED"
        with pytest.raises(errors.FailedPrecondition):
            await client.containers.pause(container.id)
        await client.containers.resume(container.id)
        with pytest.raises(errors.FailedPrecondition):
            await client.containers.resume(container.id)
        await client.containers.pause(container.id)
        assert (await client.containers.stop(container.id, timeout=30)).code == 6


async def test_following_a_log_ends_with_the_container(client: Any) -> None:
    script = "for i in 1 2 3; do echo $i; sleep 0.2; done; echo -n end"
    async with running(client, "sh", "-c", script) as container:
        with anyio.fail_after(20):
            lines = [line.data async for line in client.containers.logs(container.id, follow=True)]
    assert b"".join(lines) == b"1\n2\n3\nend"


async def test_stats_tell_what_is_used_until_the_end(client: Any) -> None:
    async with running(client, resources=Resources(memory_bytes=64 << 20)) as container:
        samples: list[Any] = []
        with anyio.fail_after(30):
            async for each in client.containers.stats(container.id, interval=0.2):
                samples.append(each)
                if len(samples) == 4:
                    await client.containers.kill(container.id)
    assert len(samples) >= 4
    assert samples[0].memory_limit == 64 << 20
    assert samples[3].pids == 1, "the runtime's own threads go when it becomes the program"
    assert 0 < samples[3].memory_bytes < 64 << 20
