"""Events: who hears what, and that nobody waits for anybody."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

from orlopd.core.events import EventBus
from orlopd.core.scope import Scope
from orlopd.plugin.errors import InvalidArgument, NotFound, ResourceExhausted
from orlopd.plugin.values import Container, Descriptor, Event, Image, TypedBytes, now, sha256
from tests.support.store import MANIFEST, NS, World, eventually, put


def event(topic: str, namespace: str = "testing", **fields: str) -> Event:
    return Event(now(), namespace, topic, "containerd.events.TaskExit", fields)


async def heard(events: AsyncIterator[Event], count: int) -> list[Event]:
    with anyio.fail_after(30):
        return [await anext(events) for _ in range(count)]


async def test_subscribers_hear_what_they_asked_for_in_order() -> None:
    bus = EventBus()
    async with (
        bus.subscribe() as everything,
        bus.subscribe(["namespace==moby,topic~=|^/tasks/|"]) as tasks,
        bus.subscribe(["event.container_id==box", 'topic=="/images/create"']) as some,
    ):
        published = [
            event("/tasks/start", "moby", container_id="box"),
            event("/images/create", "moby"),
            event("/tasks/exit", "other", container_id="boxes"),
            event("/tasks/exit", "moby", container_id="other"),
        ]
        for each in published:
            await bus.publish(each)
        assert await heard(everything, 4) == published
        assert await heard(tasks, 2) == [published[0], published[3]]
        assert await heard(some, 2) == published[:2]


async def test_filters_see_the_payload_as_containerd_does() -> None:
    bus = EventBus()
    fields = {
        "id": "box",
        "pid": 7,
        "labels": {"a.b/c": "1"},
        "io": {"stdout": "/x", "terminal": False},
        "exited_at": now(),
    }
    seen = {
        "event.id": True,
        "event.id==box": True,
        "event.labels.a.b/c==1": None,
        'event.labels."a.b/c"==1': True,
        'event.io.stdout=="/x"': True,
        "event.io.terminal==false": True,
        "event.pid": False,
        "event.exited_at": False,
        "event": False,
        "event.gone": False,
        "timestamp": False,
    }
    for text, expected in seen.items():
        if expected is None:
            with pytest.raises(InvalidArgument):
                async with bus.subscribe([text]):
                    pass
            continue
        async with bus.subscribe([text, 'topic=="/end/mark"']) as events:
            await bus.publish(Event(now(), "testing", "/a/b", "m", fields))
            await bus.publish(event("/end/mark"))
            (first,) = await heard(events, 1)
            assert (first.topic == "/a/b") is expected, text


async def test_a_slow_subscriber_is_cut_off_and_told() -> None:
    bus = EventBus(backlog=3)
    async with bus.subscribe() as slow, bus.subscribe() as quick:
        for number in range(5):
            await bus.publish(event(f"/t/{number}"))
            assert (await heard(quick, 1))[0].topic == f"/t/{number}"
        assert [each.topic for each in await heard(slow, 3)] == ["/t/0", "/t/1", "/t/2"]
        with pytest.raises(ResourceExhausted):
            await heard(slow, 1)


async def test_whoever_leaves_is_forgotten() -> None:
    bus = EventBus(backlog=1)
    async with bus.subscribe():
        pass
    for _ in range(3):
        await bus.publish(event("/t/x"))
    assert not bus._subscribers


@pytest.mark.parametrize("topic", ["", "/", "x", "x/y", "//x", "/x/", "/x y", "/x/../y", "/" + "x" * 77])
async def test_malformed_topics_are_refused(topic: str) -> None:
    with pytest.raises(InvalidArgument):
        await EventBus().publish(event(topic))
    with pytest.raises(InvalidArgument):
        await EventBus().publish(event("/x", "not/a/namespace"))


async def test_observers_see_every_event_and_break_nothing() -> None:
    seen: list[str] = []
    slept: list[str] = []

    def broken(each: Event) -> None:
        seen.append(each.topic)
        if each.topic == "/t/1":
            raise RuntimeError("observer broke")
        raise NotFound("observer has an error of the house")

    async def patient(each: Event) -> None:
        await anyio.sleep(0.01)
        slept.append(each.topic)

    bus = EventBus([broken, patient])
    async with anyio.create_task_group() as group:
        await group.start(bus.run)
        for number in range(3):
            await bus.publish(event(f"/t/{number}"))
        await eventually(lambda: len(slept) == 3)
        group.cancel_scope.cancel()
    assert seen == slept == ["/t/0", "/t/1", "/t/2"]


async def test_every_change_of_an_object_is_told(tmp_path: Path) -> None:
    world = World(tmp_path)
    async with world.open() as store, store.events.subscribe() as events:
        digest = await put(store, b"blob")
        image = Image("image", Descriptor(MANIFEST, sha256(b"1"), 10), {"a": "1"})
        await store.images.create(NS, image)
        await store.images.update(NS, image, ["labels.a"])
        await store.images.delete(NS, "image")
        mem = store.snapshots.for_name("mem")
        await mem.prepare(NS, "active", "")
        await mem.commit(NS, "base", "active")
        await mem.view(NS, "look", "base")
        await mem.remove(NS, "look")
        options = TypedBytes("options", b"x")
        box = Container("box", "runc", image="image", spec=TypedBytes("s", b""), runtime_options=options)
        await store.containers.create(NS, box)
        await store.containers.update(NS, box)
        await store.containers.delete(NS, "box")
        await store.content.delete(NS, digest)
        await store.namespaces.create(NS, "made", {"a": "1"})
        await store.namespaces.update(NS, "made", {"b": "1"})
        await store.namespaces.delete("made")
        seen = await heard(events, 14)
    assert [(each.namespace, each.topic, each.message, each.fields) for each in seen] == [
        *[
            ("testing", topic, message, fields)
            for topic, message, fields in (
                ("/content/create", "containerd.events.ContentCreate", {"digest": digest, "size": 4}),
                (
                    "/images/create",
                    "containerd.services.images.v1.ImageCreate",
                    {"name": "image", "labels": {"a": "1"}},
                ),
                (
                    "/images/update",
                    "containerd.services.images.v1.ImageUpdate",
                    {"name": "image", "labels": {"a": "1"}},
                ),
                ("/images/delete", "containerd.services.images.v1.ImageDelete", {"name": "image"}),
                (
                    "/snapshot/prepare",
                    "containerd.events.SnapshotPrepare",
                    {"key": "active", "parent": "", "snapshotter": "mem"},
                ),
                (
                    "/snapshot/commit",
                    "containerd.events.SnapshotCommit",
                    {"key": "active", "name": "base", "snapshotter": "mem"},
                ),
                (
                    "/snapshot/remove",
                    "containerd.events.SnapshotRemove",
                    {"key": "look", "snapshotter": "mem"},
                ),
                (
                    "/containers/create",
                    "containerd.events.ContainerCreate",
                    {"id": "box", "image": "image", "runtime": {"name": "runc", "options": options}},
                ),
                (
                    "/containers/update",
                    "containerd.events.ContainerUpdate",
                    {"id": "box", "image": "image", "labels": {}, "snapshot_key": ""},
                ),
                ("/containers/delete", "containerd.events.ContainerDelete", {"id": "box"}),
                ("/content/delete", "containerd.events.ContentDelete", {"digest": digest}),
            )
        ],
        (
            "testing",
            "/namespaces/create",
            "containerd.events.NamespaceCreate",
            {"name": "made", "labels": {"a": "1"}},
        ),
        (
            "testing",
            "/namespaces/update",
            "containerd.events.NamespaceUpdate",
            {"name": "made", "labels": {"b": "1"}},
        ),
        ("made", "/namespaces/delete", "containerd.events.NamespaceDelete", {"name": "made"}),
    ]


async def test_a_failed_change_is_not_told(tmp_path: Path) -> None:
    async with World(tmp_path).open() as store, store.events.subscribe() as events:
        for call in (
            store.images.delete(NS, "gone"),
            store.containers.delete(NS, "gone"),
            store.content.delete(NS, sha256(b"gone")),
            store.images.create(Scope("testing"), Image("", Descriptor(MANIFEST, sha256(b"1"), 1))),
        ):
            with pytest.raises((NotFound, InvalidArgument)):
                await call
        await store.events.publish(event("/end/mark"))
        assert [each.topic for each in await heard(events, 1)] == ["/end/mark"]
