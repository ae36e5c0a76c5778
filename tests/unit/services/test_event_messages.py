"""containerd.services.events.v1: messages in and out, and the fields in between."""

from __future__ import annotations

from datetime import UTC, datetime

from google.protobuf import any_pb2, timestamp_pb2

from orlop_protos.containerd.events import container_pb2, task_pb2
from orlop_protos.containerd.services.events.v1 import events_pb2
from orlop_protos.containerd.services.images.v1 import image_pb2, images_pb2
from orlop_protos.containerd.types import descriptor_pb2, event_pb2, mount_pb2
from orlopd.plugin.values import Event, TypedBytes, now
from orlopd.services import convert
from tests.support.services import Client, Code, refused
from tests.support.store import MANIFEST, digest_of


async def test_events_are_published_forwarded_and_heard(client: Client) -> None:
    filters = ["event.container_id==box", 'topic=="/images/create"', 'topic=="/odd/one"']
    subscription = client.events.Subscribe(events_pb2.SubscribeRequest(filters=filters))
    await subscription.initial_metadata()
    exited = task_pb2.TaskExit(container_id="box", exit_status=7)
    payload = any_pb2.Any(type_url="containerd.events.TaskExit", value=exited.SerializeToString())
    await client.events.Publish(events_pb2.PublishRequest(topic="/tasks/exit", event=payload))
    other = any_pb2.Any(
        type_url="containerd.events.TaskExit",
        value=task_pb2.TaskExit(container_id="other").SerializeToString(),
    )
    await client.events.Publish(events_pb2.PublishRequest(topic="/tasks/exit", event=other))
    at = timestamp_pb2.Timestamp(seconds=1700000000, nanos=5000)
    packed = any_pb2.Any(type_url="type.googleapis.com/containerd.events.TaskExit", value=payload.value)
    envelope = event_pb2.Envelope(timestamp=at, namespace="elsewhere", topic="/tasks/exit", event=packed)
    await client.events.Forward(events_pb2.ForwardRequest(envelope=envelope))
    # A message that nobody here knows, and one that is broken, pass as they are.
    odd = any_pb2.Any(type_url="example.com/Odd", value=b"\xff\xff")
    broken = any_pb2.Any(type_url="containerd.events.TaskExit", value=b"\xff\xff")
    for each in (odd, broken):
        await client.events.Publish(events_pb2.PublishRequest(topic="/odd/one", event=each))
    target = descriptor_pb2.Descriptor(media_type=MANIFEST, digest=digest_of(b"x"), size=1)
    image = images_pb2.Image(name="image", target=target, labels={"a": "1"})
    await client.images.Create(images_pb2.CreateImageRequest(image=image))

    heard = [await subscription.read() for _ in range(5)]
    assert [(each.namespace, each.topic, each.event) for each in heard[:4]] == [
        ("testing", "/tasks/exit", payload),
        ("elsewhere", "/tasks/exit", packed),
        ("testing", "/odd/one", odd),
        ("testing", "/odd/one", broken),
    ]
    assert heard[1].timestamp == at
    assert heard[4].event.type_url == "containerd.services.images.v1.ImageCreate"
    created = image_pb2.ImageCreate.FromString(heard[4].event.value)
    assert created == image_pb2.ImageCreate(name="image", labels={"a": "1"})
    subscription.cancel()


async def test_events_that_cannot_be(client: Client) -> None:
    code = await refused(client.events.Publish(events_pb2.PublishRequest(topic="x")))
    assert code is Code.INVALID_ARGUMENT
    envelope = event_pb2.Envelope(namespace="x", topic="/x/y")
    code = await refused(client.events.Forward(events_pb2.ForwardRequest(envelope=envelope)))
    assert code is Code.INVALID_ARGUMENT
    bad = events_pb2.SubscribeRequest(filters=["topic="])
    assert await refused(client.events.Subscribe(bad)) is Code.INVALID_ARGUMENT
    nameless = client.with_headers(containerd_namespace="")
    publish = nameless.events.Publish(events_pb2.PublishRequest(topic="/x/y"))
    assert await refused(publish) is Code.FAILED_PRECONDITION


def test_fields_become_their_message_whatever_they_hold() -> None:
    at = datetime(2024, 5, 6, 7, 8, 9, 123456, tzinfo=UTC)
    fields = {
        "container_id": "box",
        "rootfs": [{"type": "bind", "source": "/x", "options": ["ro", "rbind"]}],
        "io": {"stdin": "/i", "terminal": True},
        "pid": 7,
        "unknown": "left out",
    }
    payload = convert.event_payload(
        Event(now(), "n", "/tasks/create", "containerd.events.TaskCreate", fields)
    )
    assert payload.type_url == "containerd.events.TaskCreate"
    message = task_pb2.TaskCreate.FromString(payload.value)
    assert message == task_pb2.TaskCreate(
        container_id="box",
        rootfs=[mount_pb2.Mount(type="bind", source="/x", options=["ro", "rbind"])],
        io=task_pb2.TaskIO(stdin="/i", terminal=True),
        pid=7,
    )
    fields = {"container_id": "box", "exit_status": 7, "exited_at": at, "reason": "died"}
    payload = convert.event_payload(Event(now(), "n", "/tasks/exit", "containerd.events.TaskExit", fields))
    assert task_pb2.TaskExit.FromString(payload.value).exited_at.ToDatetime(UTC) == at
    options = TypedBytes("options", b"\xff")
    fields = {"id": "box", "runtime": {"name": "runc", "options": options}}
    payload = convert.event_payload(Event(now(), "n", "/c/c", "containerd.events.ContainerCreate", fields))
    created = container_pb2.ContainerCreate.FromString(payload.value)
    assert created.runtime.options == any_pb2.Any(type_url="options", value=b"\xff")
    unknown = convert.event_payload(Event(now(), "n", "/c/c", "no.such.Message", {"a": "b"}))
    assert unknown == any_pb2.Any(type_url="no.such.Message")


def test_what_is_read_of_a_message_makes_the_same_message() -> None:
    message = task_pb2.TaskCreate(
        container_id="box",
        rootfs=[mount_pb2.Mount(type="bind", options=["ro"])],
        io=task_pb2.TaskIO(stdin="/i", terminal=True),
        pid=7,
    )
    again = task_pb2.TaskCreate()
    convert.fill(again, convert.read(message))
    assert again == message
    update = container_pb2.ContainerUpdate(id="x", labels={"a.b": "1"})
    assert convert.read(update) == {"id": "x", "labels": {"a.b": "1"}}
