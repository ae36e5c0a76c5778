"""Events over gRPC, by both faces: containerd's Events service and SystemService.Events."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import grpc
import grpc.aio
import pytest
from google.protobuf import any_pb2, timestamp_pb2

from orlop_protos.containerd.events import task_pb2
from orlop_protos.containerd.services.events.v1 import events_pb2, events_pb2_grpc
from orlop_protos.containerd.types import event_pb2
from orlop_protos.orlop.engine.v1 import system_pb2, system_pb2_grpc
from orlopd.core.store import Store
from orlopd.plugin.values import Event, now
from orlopd.server.interceptor import Interceptor
from orlopd.server.tracing import Tracer
from orlopd.services.containerd.events import EventsService
from orlopd.services.engine.system import SystemService
from tests.support.store import NS, World, put

Code = grpc.StatusCode
MOBY = [("containerd-namespace", "moby")]
DOCKER_FILTER = "namespace==moby,topic~=|^/tasks/|"


class Faces:
    """A store served, and the stubs of both faces."""

    def __init__(self, channel: grpc.aio.Channel, store: Store) -> None:
        self.store = store
        self.containerd: Any = events_pb2_grpc.EventsStub(channel)
        self.engine: Any = system_pb2_grpc.SystemServiceStub(channel)

    async def subscribe(self, *filters: str) -> Any:
        """A subscription of containerd's that misses nothing from now on."""
        call = self.containerd.Subscribe(events_pb2.SubscribeRequest(filters=filters), metadata=MOBY)
        await call.initial_metadata()
        return call

    async def follow(self, **request: Any) -> Any:
        """One of the engine's."""
        call = self.engine.Events(system_pb2.EventsRequest(**request), metadata=MOBY)
        await call.initial_metadata()
        return call

    async def publish(self, topic: str, namespace: str = "moby", **fields: Any) -> None:
        payload = any_pb2.Any()
        payload.Pack(task_pb2.TaskExit(**fields))
        request = events_pb2.PublishRequest(topic=topic, event=payload)
        await self.containerd.Publish(request, metadata=[("containerd-namespace", namespace)], timeout=10)


@pytest.fixture
async def faces(tmp_path: Path) -> AsyncIterator[Faces]:
    async with World(tmp_path).open() as store:
        server = grpc.aio.server(interceptors=[Interceptor(Tracer("test"))])
        core: Any = SimpleNamespace(events=store.events, engine=None)
        EventsService(core).register(server)
        SystemService(core).register(server)
        server.add_insecure_port(f"unix:{tmp_path}/sock")
        await server.start()
        async with grpc.aio.insecure_channel(f"unix:{tmp_path}/sock") as channel:
            yield Faces(channel, store)
        await server.stop(None)


async def read(call: Any, count: int) -> list[Any]:
    with anyio.fail_after(30):
        found = [await call.read() for _ in range(count)]
    call.cancel()
    return found


def stamp(at: datetime) -> timestamp_pb2.Timestamp:
    message = timestamp_pb2.Timestamp()
    message.FromDatetime(at)
    return message


async def test_what_is_published_is_heard_by_whom_it_concerns(faces: Faces) -> None:
    docker = await faces.subscribe(DOCKER_FILTER)
    everything = await faces.subscribe()
    either = await faces.subscribe("event.container_id==two", 'topic=="/images/create",namespace==other')
    own = await faces.follow()
    every_namespace = await faces.follow(filters=["namespace!=nowhere"])
    await faces.publish("/tasks/exit", container_id="one", pid=7)
    await faces.publish("/images/create", "other")
    await faces.publish("/images/create")
    await faces.publish("/tasks/exit", "other", container_id="three")
    await faces.publish("/tasks/start", container_id="two")

    def topics(found: Sequence[Any]) -> list[tuple[str, str]]:
        return [(each.namespace, each.topic) for each in found]

    every = [
        ("moby", "/tasks/exit"),
        ("other", "/images/create"),
        ("moby", "/images/create"),
        ("other", "/tasks/exit"),
        ("moby", "/tasks/start"),
    ]
    assert topics(await read(docker, 2)) == [every[0], every[4]]
    assert topics(await read(everything, 5)) == every
    assert topics(await read(either, 2)) == [every[1], every[4]]
    [first, *rest] = await read(own, 3)
    assert topics([first, *rest]) == [every[0], every[2], every[4]]
    exit_ = task_pb2.TaskExit()
    assert first.event.Unpack(exit_)
    assert (exit_.container_id, exit_.pid) == ("one", 7)
    assert '"container_id": "one"' in first.json
    assert topics(await read(every_namespace, 5)) == every


async def test_forwarded_events_keep_their_time_and_namespace(faces: Faces) -> None:
    at = datetime(2020, 2, 2, tzinfo=UTC)
    call = await faces.subscribe("namespace==far")
    payload = any_pb2.Any(type_url="not.Known", value=b"\1\2")
    envelope = event_pb2.Envelope(timestamp=stamp(at), namespace="far", topic="/a/b", event=payload)
    await faces.containerd.Forward(events_pb2.ForwardRequest(envelope=envelope), metadata=MOBY, timeout=10)
    assert await read(call, 1) == [envelope]
    # As it came, out of the journal too.
    replay = await faces.follow(filters=["namespace==far"], since=stamp(at), until=stamp(now()))
    gap, told = await read(replay, 2)
    assert gap.HasField("gap")
    assert (told.event, told.at, told.topic) == (payload, stamp(at), "/a/b")


@pytest.mark.parametrize(
    ("topic", "filters"), [("no-slash", []), ("/x y", []), ("", ["namespace=="]), ("", ["topic~=|(|"])]
)
async def test_what_is_malformed_is_refused(faces: Faces, topic: str, filters: list[str]) -> None:
    async def attempt() -> None:
        if filters:
            await (await faces.subscribe(*filters)).read()
        else:
            await faces.publish(topic)

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await attempt()
    assert caught.value.code() == Code.INVALID_ARGUMENT


async def test_the_journal_is_told_and_then_the_present(faces: Faces) -> None:
    begin = now()
    for number in range(5):
        await faces.publish("/tasks/exit", container_id=f"c{number}")
    middle = now()
    for number in range(5, 10):
        await faces.publish("/tasks/exit", container_id=f"c{number}")
    end = now()
    call = await faces.follow(filters=["topic~=^/tasks/"], since=stamp(begin))
    await faces.publish("/tasks/exit", container_id="c10")
    seen = await read(call, 11)
    assert [f'"c{number}"' in each.json for number, each in enumerate(seen)] == [True] * 11
    later = await faces.follow(filters=["topic~=^/tasks/"], since=stamp(middle), until=stamp(end))
    with anyio.fail_after(30):
        # It ends by itself.
        assert [each.json for each in [item async for item in later]] == [each.json for each in seen[5:10]]


async def test_a_time_before_the_journal_is_told(faces: Faces) -> None:
    long_ago = now() - timedelta(days=30)
    await put(faces.store, b"blob", scope=NS)
    call = await faces.follow(since=stamp(long_ago), filters=["namespace==testing"])
    notice, event = await read(call, 2)
    assert notice.gap.since == stamp(long_ago)
    assert long_ago < notice.gap.until.ToDatetime(UTC) <= now()
    assert "journal" in notice.gap.reason
    assert not notice.HasField("event")
    assert (event.topic, event.HasField("gap")) == ("/content/create", False)


@pytest.mark.parametrize("face", ["containerd", "engine", "engine with the past"])
async def test_whoever_is_slow_is_told_and_slows_nobody(
    faces: Faces, face: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faces.store.events, "_backlog", 50)
    since = {"since": stamp(now())} if face.endswith("past") else {}
    slow = await (faces.subscribe() if face == "containerd" else faces.follow(**since))
    quick = await faces.subscribe()
    heard = 0

    async def listen() -> None:
        nonlocal heard
        async for _ in quick:
            heard += 1

    async with anyio.create_task_group() as group:
        group.start_soon(listen)
        for number in range(2000):
            # Large enough that what travels between is full long before the last.
            fields = {"container_id": f"{number}" + "x" * 4096}
            with anyio.fail_after(30):
                await faces.store.events.publish(
                    Event(now(), "moby", "/tasks/exit", "containerd.events.TaskExit", fields)
                )
            with anyio.fail_after(20):
                while heard < number - 20 or (number == 1999 and heard < 2000):  # noqa: ASYNC110 (nothing tells)
                    await anyio.sleep(0.001)
        quick.cancel()
        group.cancel_scope.cancel()
    got = 0

    async def exhaust() -> None:
        nonlocal got
        async for _ in slow:
            got += 1

    with pytest.raises(grpc.aio.AioRpcError) as caught, anyio.fail_after(20):
        await exhaust()
    assert caught.value.code() == Code.RESOURCE_EXHAUSTED
    assert "waited for this subscriber, later ones are lost" in (caught.value.details() or "")
    assert 50 <= got < 2000
