"""The kit for runtimes: the matrix of a task's life, with pipes and with a terminal, watched and on its own.

::

    class TestMine(RuntimeKit):
        @pytest.fixture
        def factory(self):
            return opened_mine      # called with a folder; an async context manager that gives the runtime

A runtime that is left and made anew on the same folder has to find its tasks again. The root filesystem is
the machine's static busybox (Debian's ``busybox-static``) unless the fixture ``rootfs`` says otherwise.
"""

from __future__ import annotations

import signal
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

import anyio
import pytest

from orlopd.plugin.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound
from orlopd.plugin.runtime import (
    Attachment,
    Detach,
    Detached,
    ExecSpec,
    Exit,
    Output,
    Resize,
    Runtime,
    Stdin,
    Stdio,
    Task,
    TaskSpec,
    TaskState,
)
from orlopd.plugin.values import Mount

from ._tasks import TAG, Opened, busybox, process_of, spec_of

__all__ = ["TAG", "Opened", "RuntimeKit", "process_of", "spec_of"]

_NAMESPACE = "kit"
_SECONDS = 30.0

terminals = pytest.mark.parametrize("terminal", [False, True], ids=["pipes", "pty"])
watched = pytest.mark.parametrize("foreground", [True, False], ids=["foreground", "detached"])


@pytest.mark.anyio
class RuntimeKit:
    """Derive from it and define the fixture ``factory``."""

    @pytest.fixture
    def rootfs(self, tmp_path: Path) -> Sequence[Mount]:
        """What a task's root filesystem is mounted from."""
        return [Mount("bind", str(busybox(tmp_path / "rootfs")), ("rbind", "ro"))]

    @pytest.fixture
    def folder(self) -> Iterator[Path]:
        """Where the runtime keeps its state: a path that is short enough for sockets below it."""
        with tempfile.TemporaryDirectory(prefix="kit-") as name:
            yield Path(name)

    @pytest.fixture
    async def runtime(self, factory: Opened, folder: Path) -> AsyncIterator[Runtime]:
        async with factory(folder) as runtime:
            yield runtime

    def spec(self, rootfs: Sequence[Mount], *args: str, stdio: Stdio, id: str = "task") -> TaskSpec:
        """A task that runs ``args``."""
        return TaskSpec(_NAMESPACE, id, spec_of(*args, terminal=stdio.terminal), rootfs, stdio)

    # The matrix.

    @terminals
    @watched
    async def test_a_life_from_create_to_delete(
        self, runtime: Runtime, rootfs: Sequence[Mount], terminal: bool, foreground: bool
    ) -> None:
        stdio = Stdio(terminal=terminal, attach=foreground, hold_stdin=foreground)
        script = "read line; echo got $line; exit 7" if foreground else "echo nobody listens; exit 7"
        task = await runtime.create(self.spec(rootfs, "sh", "-c", script, stdio=stdio))
        status = await task.status()
        assert (status.state, status.exit) == (TaskState.CREATED, None)
        assert status.pid > 0
        with anyio.fail_after(_SECONDS):
            if foreground:
                async with task.attach(stdin=True) as attachment:
                    assert attachment.terminal is terminal
                    assert await task.start() == status.pid
                    await attachment.send(Stdin(b"it\n"))
                    said, end = await read_all(attachment)
                assert said.endswith(b"got it\r\n" if terminal else b"got it\n")
                assert end is not None
                assert end.code == 7
            else:
                assert await task.start() == status.pid
            assert (await task.wait()).code == 7
        assert (await task.status()).state is TaskState.STOPPED
        assert (await task.delete()).code == 7
        with pytest.raises(NotFound):
            await task.start()
        events = [event async for event in task.events()]
        assert [event.topic for event in events] == [
            "/tasks/create",
            "/tasks/start",
            "/tasks/exit",
            "/tasks/delete",
        ]
        assert [event.sequence for event in events] == [1, 2, 3, 4]

    @terminals
    @watched
    async def test_an_exec_beside_the_main_process(
        self, runtime: Runtime, rootfs: Sequence[Mount], terminal: bool, foreground: bool
    ) -> None:
        task = await self._sleeping(runtime, rootfs, terminal)
        stdio = Stdio(terminal=terminal, attach=foreground)
        await task.exec(ExecSpec("more", process_of("sh", "-c", "echo hello; exit 9"), stdio))
        with pytest.raises(AlreadyExists):
            await task.exec(ExecSpec("more", process_of("true")))
        assert (await task.status("more")).state is TaskState.CREATED
        with anyio.fail_after(_SECONDS):
            if foreground:
                async with task.attach("more") as attachment:
                    assert await task.start("more") > 0
                    said, _ = await read_all(attachment)
                assert said == (b"hello\r\n" if terminal else b"hello\n")
            else:
                assert await task.start("more") > 0
            assert (await task.wait("more")).code == 9
        assert (await task.status("more")).state is TaskState.STOPPED
        assert (await task.delete("more")).code == 9
        with pytest.raises(NotFound):
            await task.status("more")
        await end_of(task)

    @terminals
    async def test_the_processes_are_listed_with_their_execs(
        self, runtime: Runtime, rootfs: Sequence[Mount], terminal: bool
    ) -> None:
        task = await self._sleeping(runtime, rootfs, terminal)
        await task.exec(ExecSpec("more", process_of("sleep", "1000")))
        pid = await task.start("more")
        listed = {entry.pid: entry.exec_id for entry in await task.pids()}
        assert listed == {(await task.status()).pid: "", pid: "more"}
        await task.kill(signal.SIGKILL, "more")
        assert (await task.wait("more")).code == 128 + signal.SIGKILL
        await end_of(task)

    @terminals
    async def test_frozen_and_thawed(self, runtime: Runtime, rootfs: Sequence[Mount], terminal: bool) -> None:
        task = await self._sleeping(runtime, rootfs, terminal)
        await task.pause()
        assert (await task.status()).state is TaskState.PAUSED
        with pytest.raises(FailedPrecondition):
            await task.pause()
        with pytest.raises(FailedPrecondition):
            await task.exec(ExecSpec("more", process_of("true")))
        await task.resume()
        assert (await task.status()).state is TaskState.RUNNING
        with pytest.raises(FailedPrecondition):
            await task.resume()
        await end_of(task)

    @terminals
    async def test_a_frozen_task_can_be_killed(
        self, runtime: Runtime, rootfs: Sequence[Mount], terminal: bool
    ) -> None:
        task = await self._sleeping(runtime, rootfs, terminal)
        await task.pause()
        await end_of(task)

    @terminals
    async def test_usage_is_told_and_limits_change(
        self, runtime: Runtime, rootfs: Sequence[Mount], terminal: bool
    ) -> None:
        task = await self._sleeping(runtime, rootfs, terminal)
        await task.update(b'{"memory": {"limit": 67108864}, "pids": {"limit": 100}}', {})
        usage = await task.stats()
        name = usage.type_url.rpartition("/")[2]
        assert name in ("io.containerd.cgroups.v1.Metrics", "io.containerd.cgroups.v2.Metrics")
        assert usage.value
        await end_of(task)
        with pytest.raises(NotFound):
            await task.stats()

    @terminals
    async def test_many_wait_before_the_end_and_after(
        self, runtime: Runtime, rootfs: Sequence[Mount], terminal: bool
    ) -> None:
        task = await self._sleeping(runtime, rootfs, terminal)
        ends: list[Exit] = []

        async def wait() -> None:
            ends.append(await task.wait())

        with anyio.fail_after(_SECONDS):
            async with anyio.create_task_group() as group:
                for _ in range(10):
                    group.start_soon(wait)
                await task.kill(signal.SIGKILL, all=True)
            await wait()
        assert len(set(ends)) == 1
        assert ends[0].code == 128 + signal.SIGKILL
        with pytest.raises(NotFound):
            await task.kill(signal.SIGTERM)
        assert (await task.delete()) == ends[0]

    # Streams.

    async def test_half_closed_input_ends_a_filter(self, runtime: Runtime, rootfs: Sequence[Mount]) -> None:
        stdio = Stdio(attach=True, hold_stdin=True)
        task = await runtime.create(self.spec(rootfs, "cat", stdio=stdio))
        data = bytes(range(256)) * 4096
        said, end = b"", None
        with anyio.fail_after(_SECONDS):
            async with task.attach(stdin=True) as attachment, anyio.create_task_group() as group:
                await task.start()
                group.start_soon(attachment.send, Stdin(data, end=True))
                said, end = await read_all(attachment)
        assert said == data
        assert end is not None
        assert end.code == 0
        await task.delete()

    async def test_a_terminal_has_the_size_it_is_given(
        self, runtime: Runtime, rootfs: Sequence[Mount]
    ) -> None:
        stdio = Stdio(terminal=True, attach=True, hold_stdin=True)
        task = await runtime.create(self.spec(rootfs, "sh", "-c", "read go; stty size", stdio=stdio))
        with anyio.fail_after(_SECONDS):
            async with task.attach(stdin=True) as attachment:
                await attachment.send(Resize(100, 30))
                await task.start()
                await task.resize(123, 45)
                await attachment.send(Stdin(b"\n"))
                said, _ = await read_all(attachment)
        assert said.endswith(b"45 123\r\n")
        await task.delete()

    @terminals
    async def test_a_late_client_gets_what_was_said(
        self, runtime: Runtime, rootfs: Sequence[Mount], terminal: bool
    ) -> None:
        stdio = Stdio(terminal=terminal, attach=True, hold_stdin=True)
        script = "echo early; read line; echo late; exit 3"
        task = await runtime.create(self.spec(rootfs, "sh", "-c", script, stdio=stdio))
        with anyio.fail_after(_SECONDS):
            async with task.attach() as first:
                await task.start()
                assert b"early" in await read_until(first, b"early")
                await first.send(Detach())
                assert [item async for item in first.output() if not isinstance(item, Output)] == [Detached()]
            async with task.attach(stdin=True, scrollback=True) as second, task.attach() as third:
                await read_until(second, b"early")
                await second.send(Stdin(b"go\n"))
                for client in (second, third):
                    said, end = await read_all(client)
                    assert said.rstrip().endswith(b"late")
                    assert end is not None
                    assert end.code == 3
        await task.delete()

    # What goes wrong.

    async def test_an_id_is_taken_once(self, runtime: Runtime, rootfs: Sequence[Mount]) -> None:
        task = await self._sleeping(runtime, rootfs, False)
        with pytest.raises(AlreadyExists):
            await runtime.create(self.spec(rootfs, "true", stdio=Stdio()))
        with pytest.raises(FailedPrecondition):
            await task.delete()
        with pytest.raises(FailedPrecondition):
            await task.start()
        await end_of(task)
        await end_of(await self._sleeping(runtime, rootfs, False))

    async def test_what_is_no_spec_is_refused(self, runtime: Runtime) -> None:
        with pytest.raises(InvalidArgument):
            await runtime.create(TaskSpec(_NAMESPACE, "task", b"no json"))

    async def test_a_program_that_is_not_there_is_told_as_such(
        self, runtime: Runtime, rootfs: Sequence[Mount]
    ) -> None:
        async def run() -> None:  # told when it is made, or when it is started
            task = await runtime.create(self.spec(rootfs, "/no/such", stdio=Stdio()))
            try:
                await task.start()
            finally:
                await task.delete()

        with pytest.raises(FailedPrecondition) as refused:
            await run()
        assert refused.value.reason == "COMMAND_NOT_FOUND"
        await end_of(await self._sleeping(runtime, rootfs, False))

    async def test_a_created_task_is_killed_by_its_delete(
        self, runtime: Runtime, rootfs: Sequence[Mount]
    ) -> None:
        task = await runtime.create(self.spec(rootfs, "sleep", "1000", stdio=Stdio()))
        await task.delete()
        await end_of(await self._sleeping(runtime, rootfs, False))

    # Recovery.

    @terminals
    async def test_tasks_outlive_the_runtime_and_are_found_again(
        self, factory: Opened, rootfs: Sequence[Mount], terminal: bool, folder: Path
    ) -> None:
        async with factory(folder) as first:
            live = await self._sleeping(first, rootfs, terminal)
            pid = (await live.status()).pid
            stdio = Stdio(terminal=terminal)
            brief = await first.create(self.spec(rootfs, "sh", "-c", "exit 5", stdio=stdio, id="brief"))
            await brief.start()
        async with factory(folder) as second:
            found = {task.id: task for task in await second.recover()}
            assert sorted(found) == ["brief", "task"]
            status = await found["task"].status()
            assert (status.state, status.pid) == (TaskState.RUNNING, pid)
            with anyio.fail_after(_SECONDS):
                assert (await found["brief"].wait()).code == 5
            assert (await found["brief"].delete()).code == 5
            await end_of(found["task"])
            assert await second.recover() == []

    async def _sleeping(self, runtime: Runtime, rootfs: Sequence[Mount], terminal: bool) -> Task:
        task = await runtime.create(self.spec(rootfs, "sleep", "1000", stdio=Stdio(terminal=terminal)))
        await task.start()
        assert (await task.status()).state is TaskState.RUNNING
        return task


async def end_of(task: Task) -> None:
    """Kill a task and delete it."""
    await task.kill(signal.SIGKILL, all=True)
    with anyio.fail_after(_SECONDS):
        assert (await task.wait()).code == 128 + signal.SIGKILL
    await task.delete()


async def read_all(attachment: Attachment) -> tuple[bytes, Exit | None]:
    """All output to the end, and the end."""
    said = bytearray()
    async for item in attachment.output():
        if isinstance(item, Output):
            said += item.data
        elif isinstance(item, Exit):
            return bytes(said), item
    return bytes(said), None


async def read_until(attachment: Attachment, text: bytes) -> bytes:
    """Output up to and with ``text``."""
    said = b""
    async for item in attachment.output():
        said += item.data if isinstance(item, Output) else b""
        if text in said:
            return said
    raise AssertionError(f"{text!r} did not come: {said!r}")
