"""Between the messages of the wire and the values of the house; shared by all services."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, overload

from google.protobuf import any_pb2, descriptor_pool, message_factory, timestamp_pb2
from google.protobuf.message import DecodeError, Message

from orlop_protos.containerd.events import (
    container_pb2,
    content_pb2,
    namespace_pb2,
    sandbox_pb2,
    snapshot_pb2,
    task_pb2,
)
from orlop_protos.containerd.services.images.v1 import image_pb2
from orlop_protos.containerd.types import descriptor_pb2, event_pb2, mount_pb2
from orlop_protos.orlop.engine.v1 import settings_pb2
from orlopd.plugin.errors import InvalidArgument
from orlopd.plugin.values import Descriptor, Event, FieldValue, Mount, TypedBytes

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

# Imported for their names: messages of events are found in the pool of all that is loaded.
EVENT_MODULES = (
    container_pb2,
    content_pb2,
    image_pb2,
    namespace_pb2,
    sandbox_pb2,
    settings_pb2,
    snapshot_pb2,
    task_pb2,
)


def to_timestamp(at: datetime) -> timestamp_pb2.Timestamp:
    """A time on the wire."""
    stamp = timestamp_pb2.Timestamp()
    fill_timestamp(stamp, at)
    return stamp


def fill_timestamp(stamp: timestamp_pb2.Timestamp, at: datetime) -> None:
    """Set a time on the wire. As ``FromDatetime``, four times as fast: lists have two of them a row."""
    since = at - _EPOCH
    stamp.seconds = since.days * 86400 + since.seconds
    stamp.nanos = since.microseconds * 1000


def fill_labels(message: MutableMapping[str, str], labels: Mapping[str, str]) -> None:
    """Set labels on the wire. As ``update``, twice as fast."""
    for key, value in labels.items():
        message[key] = value


def from_timestamp(stamp: timestamp_pb2.Timestamp) -> datetime:
    """A time from the wire. :raises InvalidArgument: it lies outside the years 1 to 9999"""
    try:
        return stamp.ToDatetime(UTC)
    except (ValueError, OverflowError) as error:
        raise InvalidArgument(f"malformed timestamp: {error}: invalid argument") from error


def to_descriptor(descriptor: Descriptor) -> descriptor_pb2.Descriptor:
    """A descriptor on the wire, which has no room for its platform."""
    message = descriptor_pb2.Descriptor()
    fill_descriptor(message, descriptor)
    return message


def fill_descriptor(message: descriptor_pb2.Descriptor, descriptor: Descriptor) -> None:
    """Set a descriptor on the wire."""
    message.media_type = descriptor.media_type
    message.digest = descriptor.digest
    message.size = descriptor.size
    if descriptor.annotations:
        message.annotations.update(descriptor.annotations)


def from_descriptor(descriptor: descriptor_pb2.Descriptor) -> Descriptor:
    """A descriptor from the wire, not checked."""
    return Descriptor(
        descriptor.media_type, descriptor.digest, descriptor.size, annotations=dict(descriptor.annotations)
    )


def to_mounts(mounts: Iterable[Mount]) -> list[mount_pb2.Mount]:
    """Mounts on the wire."""
    return [
        mount_pb2.Mount(type=each.type, source=each.source, target=each.target, options=each.options)
        for each in mounts
    ]


def from_mounts(mounts: Iterable[mount_pb2.Mount]) -> list[Mount]:
    """Mounts from the wire."""
    return [Mount(each.type, each.source, tuple(each.options), each.target) for each in mounts]


@overload
def to_any(typed: TypedBytes) -> any_pb2.Any: ...


@overload
def to_any(typed: TypedBytes | None) -> any_pb2.Any | None: ...


def to_any(typed: TypedBytes | None) -> any_pb2.Any | None:
    """Typed bytes on the wire, as they came; None stays None."""
    return None if typed is None else any_pb2.Any(type_url=typed.type_url, value=typed.value)


def fill_any(message: any_pb2.Any, typed: TypedBytes) -> None:
    """Set typed bytes on the wire, as they came; also where both parts are empty."""
    message.SetInParent()
    message.type_url = typed.type_url
    message.value = typed.value


def from_any(message: any_pb2.Any) -> TypedBytes:
    """Typed bytes from the wire, unread."""
    return TypedBytes(message.type_url, message.value)


def to_envelope(event: Event) -> event_pb2.Envelope:
    """An event on the wire."""
    return event_pb2.Envelope(
        timestamp=to_timestamp(event.at),
        namespace=event.namespace,
        topic=event.topic,
        event=event_payload(event),
    )


def event_payload(event: Event) -> any_pb2.Any:
    """An event's payload: as it came where it came from outside, else its fields as its message."""
    if event.raw is not None:
        return to_any(event.raw)
    # The bare name, without a host before it, is how containerd marks its own messages.
    payload = any_pb2.Any(type_url=event.message)
    kind = _message_class(event.message)
    if kind is not None:
        message = kind()
        fill(message, event.fields)
        payload.value = message.SerializeToString()
    return payload


def published_event(at: datetime, namespace: str, topic: str, payload: any_pb2.Any) -> Event:
    """The event that a client published; its fields are read if its message is known."""
    name = payload.type_url.rpartition("/")[2]
    fields: Mapping[str, FieldValue] = {}
    kind = _message_class(name)
    if kind is not None:
        message = kind()
        try:
            message.ParseFromString(payload.value)
        except DecodeError:
            pass  # It goes on to whoever can read it; only filters on its fields see nothing.
        else:
            fields = read(message)
    return Event(at, namespace, topic, name, fields, from_any(payload))


def fill(message: Message, fields: Mapping[str, Any]) -> None:
    """Set a message's fields by name from plain data. Names that it does not have are left out."""
    for name, value in fields.items():
        field = message.DESCRIPTOR.fields_by_name.get(name)
        if field is None or value is None:
            continue
        target = getattr(message, name)
        if field.message_type is None:
            if field.is_repeated:
                target.extend(value)
            else:
                setattr(message, name, value)
        elif field.message_type.GetOptions().map_entry:
            target.update(value)
        elif field.is_repeated:
            for each in value:
                _fill_one(target.add(), each)
        else:
            _fill_one(target, value)


def _fill_one(message: Any, value: Any) -> None:
    message.SetInParent()
    if isinstance(value, datetime):
        message.FromDatetime(value)
    elif isinstance(value, TypedBytes):
        message.type_url, message.value = value.type_url, value.value
    else:
        fill(message, value)


def read(message: Message) -> dict[str, FieldValue]:
    """The set fields of a message as plain data."""
    return {field.name: _plain(field, value) for field, value in message.ListFields()}


def _plain(field: Any, value: Any) -> FieldValue:
    if field.message_type is None:
        return list(value) if field.is_repeated else value
    if field.message_type.GetOptions().map_entry:
        return {str(key): each if isinstance(each, str) else str(each) for key, each in value.items()}
    if field.is_repeated:
        return [_plain_message(each) for each in value]
    return _plain_message(value)


def _plain_message(message: Any) -> FieldValue:
    match message.DESCRIPTOR.full_name:
        case "google.protobuf.Timestamp":
            return from_timestamp(message)
        case "google.protobuf.Any":
            return from_any(message)
        case _:
            return read(message)


@lru_cache(maxsize=256)
def _message_class(name: str) -> Any:
    try:
        return message_factory.GetMessageClass(descriptor_pool.Default().FindMessageTypeByName(name))
    except KeyError:
        return None


def paths_of(request: Any) -> Sequence[str]:
    """The paths of a request's ``update_mask``; none where there is no mask."""
    return tuple(request.update_mask.paths)
