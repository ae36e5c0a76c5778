"""Between the shim's messages and the values of the plugin API."""

from __future__ import annotations

from typing import Any

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from orlop_protos.containerd.v1.types import task_pb2 as types
from orlopd.plugin.runtime import TaskEvent, TaskState
from orlopd.plugin.values import FieldValue

from .journal import Record, unpack
from .wire import from_timestamp

STATES: dict[int, TaskState] = {
    types.CREATED: TaskState.CREATED,
    types.RUNNING: TaskState.RUNNING,
    types.STOPPED: TaskState.STOPPED,
    types.PAUSED: TaskState.PAUSED,
    types.PAUSING: TaskState.PAUSING,
}


def event_of(record: Record, reason: str = "") -> TaskEvent:
    """A shim's event. ``reason`` is added to the fields where it is not empty."""
    message = unpack(record)
    fields = fields_of(message)
    if reason:
        fields["reason"] = reason
    return TaskEvent(
        sequence=record.sequence,
        at=from_timestamp(record.at),
        topic=record.topic,
        message=message.DESCRIPTOR.full_name,
        fields=fields,
    )


def fields_of(message: Message) -> dict[str, FieldValue]:
    """A message as plain data: all scalars, and those messages that are set."""
    fields: dict[str, FieldValue] = {}
    for field in message.DESCRIPTOR.fields:
        value = getattr(message, field.name)
        if field.is_repeated:
            fields[field.name] = [_plain(item) for item in value]
        elif field.message_type is None or message.HasField(field.name):
            fields[field.name] = _plain(value)
    return fields


def _plain(value: Any) -> FieldValue:
    if isinstance(value, Timestamp):
        return from_timestamp(value)
    if isinstance(value, Message):
        return fields_of(value)
    return value
