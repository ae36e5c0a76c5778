"""Between the shim's messages and the values of the plugin API."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from orlop_protos.containerd.runc.v1 import oci_pb2
from orlop_protos.containerd.task.v3 import shim_pb2 as task
from orlop_protos.containerd.v1.types import task_pb2 as types
from orlopd.plugin.runtime import (
    ExecSpec,
    Exit,
    ProcessEntry,
    ProcessStatus,
    Stdio,
    TaskEvent,
    TaskState,
)
from orlopd.plugin.values import FieldValue, now

from .journal import Record, unpack
from .stdio import encode
from .wire import REASON_HEADER, from_timestamp, header

_PROCESS_TYPE = "types.containerd.io/opencontainers/runtime-spec/1/Process"
_RESOURCES_TYPE = "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources"

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


def exec_request(id: str, spec: ExecSpec) -> task.ExecProcessRequest:
    """What asks a shim for an exec in the container ``id``."""
    stdin, stdout, stderr = encode(spec.stdio)
    return task.ExecProcessRequest(
        id=id,
        exec_id=spec.id,
        terminal=spec.stdio.terminal,
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        spec=AnyMessage(type_url=_PROCESS_TYPE, value=spec.process),
    )


def update_request(id: str, resources: bytes, annotations: Mapping[str, str]) -> task.UpdateTaskRequest:
    """What asks a shim to set the limits of the container ``id``."""
    packed = AnyMessage(type_url=_RESOURCES_TYPE, value=resources)
    return task.UpdateTaskRequest(id=id, resources=packed, annotations=dict(annotations))


def exit_of(reply: task.WaitResponse | task.DeleteResponse | task.StateResponse, trailing: Any = ()) -> Exit:
    """How a process ended; one that never began ended now."""
    at = from_timestamp(reply.exited_at) if reply.HasField("exited_at") else now()
    return Exit(reply.exit_status, at, header(trailing, REASON_HEADER))


def status_of(id: str, exec_id: str, reply: task.StateResponse, trailing: Any, stdio: Stdio) -> ProcessStatus:
    """How a process of the container ``id`` is.

    :param stdio: the main process's streams, which the shim knows in words of its own
    """
    state = STATES.get(reply.status, TaskState.UNKNOWN)
    ended = state is TaskState.STOPPED and reply.HasField("exited_at")
    if exec_id:
        stdio = Stdio(reply.stdin, reply.stdout, reply.stderr, reply.terminal)
    end = exit_of(reply, trailing) if ended else None
    return ProcessStatus(id, exec_id, reply.pid, state, stdio, end, reply.bundle)


def entry_of(item: types.ProcessInfo) -> ProcessEntry:
    """A process, with the exec that it is, where a shim says so."""
    exec_id = ""
    if item.info.type_url.rpartition("/")[2] == oci_pb2.ProcessDetails.DESCRIPTOR.full_name:
        exec_id = oci_pb2.ProcessDetails.FromString(item.info.value).exec_id
    return ProcessEntry(item.pid, exec_id)
