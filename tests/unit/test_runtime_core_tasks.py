"""The core's tasks over a pretended runtime: events are published once, whatever happens to the daemon."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, cast

import anyio
import pytest

from orlopd.core.checkpoints import CRIU, Checkpoints
from orlopd.core.containers import Containers
from orlopd.core.events import EventBus
from orlopd.core.scope import Scope
from orlopd.core.tasks import Tasks
from orlopd.plugin import Runtime, Task
from orlopd.plugin.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound
from orlopd.plugin.runtime import Exit, TaskEvent, TaskSpec
from orlopd.plugin.values import SPEC_TYPE_URL, Container, Descriptor, Event, TypedBytes, now, sha256

SCOPE = Scope("ns")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class PretendedTask:
    """Has a history that outlives the daemon."""

    def __init__(self, spec: TaskSpec) -> None:
        self.namespace, self.id, self.spec = spec.namespace, spec.id, spec
        self.history: list[str] = ["create"]
        self.news = anyio.Event()

    def say(self, topic: str) -> None:
        self.history.append(topic)
        self.news.set()
        self.news = anyio.Event()

    async def events(self, after: int = 0) -> AsyncIterator[TaskEvent]:
        while True:
            news = self.news
            for number, topic in enumerate(self.history[after:], after + 1):
                yield TaskEvent(number, now(), f"/tasks/{topic}", "containerd.events.TaskX", {"n": number})
                after = number
                if topic == "delete":
                    return
            await news.wait()

    async def delete(self, exec_id: str = "") -> Exit:
        self.say("delete")
        return Exit(0, now())


class PretendedRuntime:
    def __init__(self) -> None:
        self.tasks: list[PretendedTask] = []
        self.fails = False

    async def create(self, spec: TaskSpec) -> Task:
        self.tasks.append(PretendedTask(spec))
        return cast("Task", self.tasks[-1])

    async def recover(self) -> Sequence[Task]:
        if self.fails:
            raise RuntimeError("as a broken plugin does")
        return cast("list[Task]", self.tasks)


class Records:
    runtime = "pretended"

    async def get(self, scope: Scope, id: str) -> Container:
        if id == "missing" or scope.namespace == "nobodys":
            raise NotFound("no such container")
        options = TypedBytes("options", b"container's")
        return Container(id, self.runtime, spec=TypedBytes(SPEC_TYPE_URL, b"{}"), runtime_options=options)


class House:
    def __init__(self, state: Path) -> None:
        self.runtime = PretendedRuntime()
        self.seen: list[Event] = []
        self.bus = EventBus([self.seen.append])
        self.state = state
        self.records = Records()
        self.checkpoints = state.parent / "checkpoints"

    def lay_out(self, namespace: str, id: str) -> Path:
        """As for a task that is restored from a checkpoint and was not started yet."""
        image = self.checkpoints / namespace / id / "pages-1.img"
        image.parent.mkdir(parents=True)
        image.write_bytes(b"pages")
        return image

    def tasks(self) -> Tasks:
        runtimes = {"pretended": cast("Runtime", self.runtime)}
        nothing = cast("Any", None)
        checkpoints = Checkpoints(nothing, nothing, self.checkpoints)
        return Tasks(runtimes, cast("Containers", self.records), checkpoints, self.bus, state=self.state)

    async def published(self, count: int) -> list[str]:
        with anyio.fail_after(30):
            while len(self.seen) < count:  # noqa: ASYNC110
                await anyio.sleep(0.001)
        await anyio.sleep(0.01)
        return [event.topic.removeprefix("/tasks/") for event in self.seen]


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    house = House(tmp_path / "tasks")
    async with anyio.create_task_group() as group:
        await group.start(house.bus.run)
        yield house
        group.cancel_scope.cancel()


async def test_events_are_published_once_over_restarts(house: House) -> None:
    async with house.tasks() as tasks:
        await tasks.create(SCOPE, "a")
        house.runtime.tasks[0].say("start")
        assert await house.published(2) == ["create", "start"]
    house.runtime.tasks[0].say("exit")
    async with house.tasks() as tasks:
        await tasks.recover()
        assert await house.published(3) == ["create", "start", "exit"]
        task = await tasks.get(SCOPE, "a")
        await task.delete()
        assert [event.topic for event in house.seen][-1] == "/tasks/delete" or await house.published(4)
        with pytest.raises(NotFound):
            await tasks.get(SCOPE, "a")
        assert await tasks.list(SCOPE) == []
    assert list(house.state.rglob("*")) == []


async def test_a_new_task_of_an_old_name_begins_anew(house: House) -> None:
    (house.state / "ns").mkdir(parents=True)
    (house.state / "ns" / "a").write_bytes((99).to_bytes(8, "big"))
    async with house.tasks() as tasks:
        await tasks.recover()
        await tasks.create(SCOPE, "a")
        assert await house.published(1) == ["create"]


async def test_what_a_task_is_made_of(house: House) -> None:
    async with house.tasks() as tasks:
        await tasks.create(SCOPE, "a", options=TypedBytes("options", b""))
        await tasks.create(SCOPE, "b", options=TypedBytes("options", b"task's"), spec=b"[]")
        made = [(task.spec.spec, task.spec.options) for task in house.runtime.tasks]
        options: list[Any] = [TypedBytes("options", value) for value in (b"container's", b"task's")]
        assert made == list(zip((b"{}", b"[]"), options, strict=True))
        assert [task.id for task in await tasks.list(SCOPE)] == ["a", "b"]
        assert await tasks.list(Scope("other")) == []
        with pytest.raises(AlreadyExists):
            await tasks.create(SCOPE, "a")
        with pytest.raises(NotFound):
            await tasks.create(SCOPE, "missing")
        with pytest.raises(NotFound, match="runtime 'x' not found"):
            await tasks.create(SCOPE, "c", runtime="x")
        with pytest.raises(InvalidArgument):
            await tasks.get(SCOPE, "../a")


async def test_a_runtime_that_fails_at_a_start_costs_its_tasks_nothing(house: House) -> None:
    """What they are restored from, and how far their events were told, is there when it works again."""
    image, orphan = house.lay_out("ns", "a"), house.lay_out("nobodys", "b")
    async with house.tasks() as tasks:
        await tasks.create(SCOPE, "a")
        assert await house.published(1) == ["create"]
    house.runtime.fails = True
    async with house.tasks() as tasks:
        await tasks.recover()
        assert image.exists()
        assert not orphan.exists(), "no container has a task of that name"
        with pytest.raises(FailedPrecondition, match="its runtime failed"):
            await tasks.create(SCOPE, "a", checkpoint=Descriptor(CRIU, sha256(b"tar"), 3))
        assert image.exists(), "it may be somebody else's"
    house.runtime.fails = False
    house.runtime.tasks[0].say("start")
    async with house.tasks() as tasks:
        await tasks.recover()
        assert await house.published(2) == ["create", "start"]
        assert image.exists()
        await (await tasks.get(SCOPE, "a")).delete()
    assert list(house.checkpoints.rglob("*")) == []


async def test_what_is_laid_out_for_a_task_of_a_runtime_that_is_not_open_stays(house: House) -> None:
    image = house.lay_out("ns", "a")
    house.records.runtime = "elsewhere"
    async with house.tasks() as tasks:
        await tasks.recover()
    assert image.exists()
    house.records.runtime = "pretended"
    async with house.tasks() as tasks:
        await tasks.recover()
    assert not image.exists()
