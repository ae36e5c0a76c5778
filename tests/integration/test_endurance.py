"""Much through a container's streams, and many execs in one container: nothing is lost, and nothing grows."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
from pathlib import Path
from typing import Any

import anyio
import pytest

from orlop.values import ContainerSpec
from tests.support.cgroups import cgroup_file
from tests.support.daemon import Daemon, mounts_under, processes_naming

MIB = 1 << 20
FULL = bool(os.environ.get("ORLOP_PROVE"))
SIZE = (2048 if FULL else 64) * MIB
PIECE = 256 << 10
EXECS = 10_000 if FULL else 200
AT_ONCE = 4
GROWTH = 24 * MIB
"""How much memory may grow over the streams: buffers, and not what goes through them."""
HASHES_AND_SENDS_BACK = "mkfifo /p; sha256sum </p >&2 & tee /p; wait"


def shim_of(daemon: Daemon) -> int:
    """The one shim there is."""
    named = processes_naming(str(daemon.state))
    found = [pid for pid, said in named.items() if said.startswith("orlop-shim")]
    assert len(found) == 1, found
    return found[0]


def memory(pid: int) -> int:
    """What a process has of its own, in bytes; 0 when it is gone."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Private_Dirty:"):
                return int(line.split()[1]) * 1024
    return 0


def descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def zombies(pid: int) -> list[int]:
    """The children that nobody has asked for."""
    found: list[int] = []
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        with contextlib.suppress(OSError):  # gone meanwhile
            if ") Z " in Path(f"/proc/{child}/stat").read_text():
                found.append(int(child))
    return found


@pytest.mark.timeout(1800 if FULL else 120)
async def test_what_goes_in_comes_back_and_is_what_the_container_saw(
    fresh_daemon: Daemon, archive: str
) -> None:
    daemon = fresh_daemon
    daemon.must(daemon.orlop("import", archive))
    noise = random.SystemRandom().randbytes(64 * MIB)  # cut at another place each time
    sent, came = hashlib.sha256(), hashlib.sha256()
    counted = shim = 0
    said = b""
    before: dict[int, int] = {}
    largest: dict[int, int] = {}
    async with daemon.connect() as client:
        args = ("sh", "-c", HASHES_AND_SENDS_BACK)
        spec = ContainerSpec(image="probe", args=args, stdin=True, auto_remove=True)
        async with client.containers.run(spec) as session, anyio.create_task_group() as group:
            await session.ready()
            shim = shim_of(daemon)
            before = {pid: memory(pid) for pid in (daemon.pid, shim)}
            largest.update(before)

            async def feed() -> None:
                left = SIZE
                while left:
                    start = random.randrange(len(noise) - PIECE)
                    piece = noise[start : start + min(PIECE, left)]
                    sent.update(piece)
                    await session.write(piece)
                    left -= len(piece)
                await session.close_stdin()

            async def watch() -> None:
                while True:
                    for pid in largest:
                        largest[pid] = max(largest[pid], memory(pid))
                    await anyio.sleep(0.1)

            group.start_soon(feed)
            group.start_soon(watch)
            async for output in session:
                if output.stream.value == "stderr":
                    said += output.data
                else:
                    came.update(output.data)
                    counted += len(output.data)
            group.cancel_scope.cancel()
        assert counted == SIZE
        assert (await session.wait()).code == 0
    assert said.split()[0].decode() == sent.hexdigest(), "the container saw something else"
    assert came.hexdigest() == sent.hexdigest(), "something else came back"
    grown = {pid: largest[pid] - before[pid] for pid in largest}
    assert max(grown.values()) < GROWTH, f"memory grew by {grown} (the shim is {shim})"


@pytest.mark.timeout(3600 if FULL else 120)
async def test_many_execs_leave_nothing(fresh_daemon: Daemon, archive: str) -> None:
    daemon = fresh_daemon
    daemon.must(daemon.orlop("import", archive))
    async with daemon.connect() as client:
        spec = ContainerSpec(image="probe", args=("sleep", "100000"))
        async with client.containers.run(spec, detach=True) as session:
            await session.ready()
        (container,) = await client.containers.list()
        pid = container.pid
        shim = shim_of(daemon)

        async def execs(count: int) -> None:
            for number in range(count):
                code = number % 120
                async with client.containers.exec(container.id, ("sh", "-c", f"exit {code}")) as session:
                    assert (await session.wait()).code == code

        async def burst(count: int) -> None:
            async with anyio.create_task_group() as group:
                for _ in range(AT_ONCE):
                    group.start_soon(execs, count // AT_ONCE)

        def state() -> dict[str, Any]:
            return {
                "descriptors of the daemon": descriptors(daemon.pid),
                "descriptors of the shim": descriptors(shim),
                "zombies": zombies(shim),
                "files": sorted(str(path) for path in daemon.state.rglob("*")),
                "processes": cgroup_file(pid, "pids", "cgroup.procs").read_text(),
                "mounts": mounts_under(daemon.folder),
            }

        async def settled() -> None:
            """Wait until nobody is on the way out any more, which takes a moment after the last answer."""
            with anyio.move_on_after(20):
                while zombies(shim):  # noqa: ASYNC110
                    await anyio.sleep(0.1)
            await anyio.sleep(0.5)

        await burst(40)
        await settled()
        before, size = state(), {pid: memory(pid) for pid in (daemon.pid, shim)}
        await burst(EXECS)
        await settled()
        after = state()
        for name in ("descriptors of the daemon", "descriptors of the shim"):
            assert after.pop(name) <= before.pop(name) + AT_ONCE, name
        assert after == before
        grown = {pid: memory(pid) - size[pid] for pid in size}
        # The daemon keeps a bounded history of events; a shim's is handed over. What a shim gains at first is
        # what it wrote for the first time, pages it shared with others until then.
        assert grown[shim] < 3 * MIB, grown
        assert grown[daemon.pid] < 16 * MIB, grown
        await client.containers.remove(container.id, force=True)
