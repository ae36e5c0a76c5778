"""A task's life on each snapshotter, with each runtime, with pipes and a terminal, watched and on its own."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import secrets
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from orlop.values import ContainerSpec, ContainerState
from tests.support.cgroups import crun_as_on_version_1
from tests.support.daemon import Daemon, eventually

IMAGE = "docker.io/library/probe:latest"
ASKS = "read line; echo got $line; exit 7"
WAITS = "trap 'exit 17' TERM; while :; do sleep 0.05; done"
PTS = 136
"""The major number of pseudo terminals (devices.txt of the kernel)."""
RUNTIMES = {"runc": "io.containerd.runc.v2", "crun": "io.containerd.crun.v2"}


@dataclass(frozen=True)
class Cell:
    """What a container is made with."""

    snapshotter: str
    runtime: str
    terminal: bool


@pytest.fixture(params=["overlayfs", "vfs"])
def snapshotter(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=["runc", "crun"])
def runtime(request: pytest.FixtureRequest) -> str:
    return RUNTIMES[request.param]


@pytest.fixture(params=[False, True], ids=["pipes", "pty"])
def cell(request: pytest.FixtureRequest, snapshotter: str, runtime: str) -> Cell:
    return Cell(snapshotter, runtime, request.param)


@pytest.fixture(scope="module")
def house(archive: str) -> Iterator[Daemon]:
    """A daemon with both runtimes, whatever this machine's crun thinks of it."""
    with tempfile.TemporaryDirectory(prefix="crun-") as folder:
        binary = crun_as_on_version_1(Path(folder))
        with Daemon(f'[plugins.runtime."{RUNTIMES["crun"]}"]\nbinary = "{binary}"') as daemon:
            daemon.must(daemon.orlop("import", archive))
            yield daemon


def check_made_of(daemon: Daemon, cell: Cell, pid: int) -> None:
    """A container is what its cell says, by what the kernel and the runtime's folder know of it."""
    mounts = [line.split() for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines()]
    (root,) = [words[words.index("-") + 1] for words in mounts if words[4] == "/"]
    assert (root == "overlay") is (cell.snapshotter == "overlayfs"), root
    tasks = daemon.state.glob(f"runtime/{cell.runtime}/tasks/*/*/init.pid")
    assert pid in [int(file.read_text()) for file in tasks]
    output = Path(f"/proc/{pid}/fd/1").stat()
    assert (os.major(output.st_rdev) == PTS) is cell.terminal


class TestEngine:
    """Through orlop.engine.v1."""

    def _spec(self, cell: Cell, script: str, **more: Any) -> ContainerSpec:
        return ContainerSpec(
            image="probe",
            args=("sh", "-c", script),
            snapshotter=cell.snapshotter,
            runtime=cell.runtime,
            terminal=cell.terminal,
            **more,
        )

    async def test_in_the_foreground(self, house: Daemon, cell: Cell) -> None:
        async with house.connect() as client:
            spec = self._spec(cell, ASKS, stdin=True, auto_remove=True)
            async with client.containers.run(spec) as session:
                await session.write(b"it\n")
                said = b"".join([output.data async for output in session])
                assert said.endswith(b"got it\r\n" if cell.terminal else b"got it\n")
                assert (await session.wait()).code == 7
            assert await client.containers.list() == ()

    async def test_input_that_ends(self, house: Daemon, cell: Cell) -> None:
        async with house.connect() as client:
            spec = self._spec(cell, "cat; exit 8", stdin=True, auto_remove=True)
            async with client.containers.run(spec) as session:
                await session.write(b"it\n")
                await session.close_stdin()
                said = b"".join([output.data async for output in session])
                assert said == (b"it\r\nit\r\n" if cell.terminal else b"it\n")
                assert (await session.wait()).code == 8

    async def test_detached(self, house: Daemon, cell: Cell) -> None:
        async with house.connect() as client:
            containers = client.containers
            key = (await containers.create(self._spec(cell, f"echo up; {WAITS}"))).id
            assert await self._state(containers, key) is ContainerState.CREATED
            for _ in range(2):
                async with containers.start(key) as session:
                    await session.ready()
                check_made_of(house, cell, (await containers.get(key)).container.pid)
                command = ("sh", "-c", "echo in; exit 9")
                async with containers.exec(key, command, terminal=cell.terminal) as more:
                    said = b"".join([output.data async for output in more])
                    assert said == (b"in\r\n" if cell.terminal else b"in\n")
                    assert (await more.wait()).code == 9
                await containers.pause(key)
                assert await self._state(containers, key) is ContainerState.PAUSED
                await containers.resume(key)
                assert [usage async for usage in containers.stats(key, once=True)]
                async with containers.attach(key, scrollback=True) as late:
                    assert b"up" in (await anext(aiter(late))).data
                    await late.detach()
                assert (await containers.stop(key)).code == 17
                assert (await containers.wait(key)).code == 17
                assert await self._state(containers, key) is ContainerState.STOPPED
            lines = [line.data async for line in containers.logs(key)]
            assert lines == [b"up\r\n" if cell.terminal else b"up\n"] * 2
            await containers.remove(key)
            assert await containers.list() == ()

    async def _state(self, containers: Any, id: str) -> ContainerState:
        return (await containers.get(id)).container.state


class TestCtr:
    """Through containerd's API, by its own client."""

    @pytest.fixture
    def name(self) -> str:
        return f"matrix-{secrets.token_hex(4)}"

    def _run(self, cell: Cell, *words: str) -> list[str]:
        terminal = ("-t",) if cell.terminal else ()
        return ["run", "--snapshotter", cell.snapshotter, "--runtime", cell.runtime, *terminal, *words]

    def test_in_the_foreground(self, house: Daemon, cell: Cell, name: str) -> None:
        words = self._run(cell, "--rm", IMAGE, name, "sh", "-c", ASKS)
        if cell.terminal:
            code, said = at_a_terminal(house, ["ctr", "-a", str(house.socket), *words], b"it\n")
            assert said.rstrip().endswith(b"got it")
        else:
            done = house.ctr(*words, stdin="it\n")
            code, said = done.returncode, done.stdout
            assert said == b"got it\n"
        assert code == 7
        assert name not in house.must(house.ctr("containers", "ls", "-q"))

    def test_detached(self, house: Daemon, cell: Cell, name: str) -> None:
        self._begin(house, cell, *self._run(cell, "-d", IMAGE, name, "sh", "-c", WAITS))
        state, pid = self._task(house, name)
        assert state == "RUNNING"
        check_made_of(house, cell, pid)
        done = house.ctr("tasks", "exec", "--exec-id", "more", name, "sh", "-c", "cat; exit 9", stdin="in\n")
        assert (done.returncode, done.stdout) == (9, b"in\n")
        assert len(house.must(house.ctr("tasks", "ps", name)).splitlines()) >= 2
        house.must(house.ctr("tasks", "pause", name))
        assert self._state(house, name) == "PAUSED"
        house.must(house.ctr("tasks", "resume", name))
        metrics = json.loads(house.must(house.ctr("tasks", "metrics", "--format", "json", name)))
        assert metrics["pids"]["current"] >= 1
        house.must(house.ctr("tasks", "kill", "-s", "TERM", name))
        eventually(lambda: self._state(house, name), lambda state: state == "STOPPED", 30)
        assert b"exit code 17" in house.ctr("tasks", "rm", name).stderr
        assert self._state(house, name) == ""
        self._begin(house, cell, "tasks", "start", "-d", name)
        assert self._state(house, name) == "RUNNING"
        house.must(house.ctr("tasks", "kill", "-s", "KILL", name))
        eventually(lambda: self._state(house, name), lambda state: state == "STOPPED", 30)
        assert b"exit code 137" in house.ctr("tasks", "rm", name).stderr
        house.must(house.ctr("containers", "rm", name))

    def _begin(self, daemon: Daemon, cell: Cell, *words: str) -> None:
        """Run what ctr, which wants a terminal to give one, does and leaves."""
        if cell.terminal:
            code, said = at_a_terminal(daemon, ["ctr", "-a", str(daemon.socket), *words])
            assert code == 0, said
        else:
            daemon.must(daemon.ctr(*words))

    def _state(self, daemon: Daemon, name: str) -> str:
        return self._task(daemon, name)[0]

    def _task(self, daemon: Daemon, name: str) -> tuple[str, int]:
        for line in daemon.must(daemon.ctr("tasks", "ls")).splitlines():
            words = line.split()
            if words[0] == name:
                return words[2], int(words[1])
        return "", 0


def at_a_terminal(daemon: Daemon, words: list[str], typed: bytes = b"") -> tuple[int, bytes]:
    """Run a program at a terminal and type something; its exit code and what the terminal shows."""
    master, slave = pty.openpty()
    process = subprocess.Popen(words, stdin=slave, stdout=slave, stderr=slave, env=daemon.environment)
    os.close(slave)
    shown = bytearray()
    try:
        os.write(master, typed)
        with contextlib.suppress(OSError):  # EIO: its last user is gone
            while piece := os.read(master, 4096):
                shown += piece
        return process.wait(20), bytes(shown)
    finally:
        process.kill()
        process.wait()
        os.close(master)
