"""Containers as they are: what the core shows of them, as messages."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from orlop_protos.orlop.engine.v1 import containers_pb2
from orlopd.core.engine import State, View
from orlopd.services.convert import to_timestamp

from . import settings
from .enums import known
from .specs import container_spec_message
from .stream_messages import process_exit

_STATES = {
    State.CREATED: containers_pb2.CONTAINER_STATE_CREATED,
    State.RUNNING: containers_pb2.CONTAINER_STATE_RUNNING,
    State.PAUSED: containers_pb2.CONTAINER_STATE_PAUSED,
    State.STOPPED: containers_pb2.CONTAINER_STATE_STOPPED,
    State.UNKNOWN: containers_pb2.CONTAINER_STATE_UNSPECIFIED,
}


def container(view: View) -> containers_pb2.Container:
    """A container as it is."""
    return containers_pb2.Container(
        id=view.id,
        name=view.name,
        image=view.image,
        state=_STATES[view.state],
        pid=view.pid,
        exit=process_exit(view.exit) if view.exit else None,
        args=view.args,
        created_at=to_timestamp(view.created_at),
        started_at=to_timestamp(view.started_at) if view.started_at else None,
        labels=dict(view.labels),
        snapshotter=view.snapshotter,
        runtime=view.runtime,
        terminal=view.terminal,
        auto_remove=view.auto_remove,
        restart=view.restart,
        restarts=view.restarts,
        health=settings.health_message(view.health) if view.health else None,
        spec=container_spec_message(view.spec) if view.spec else None,
    )


def container_states(values: Iterable[Any]) -> set[State]:
    """:raises InvalidArgument: a value of a later version"""
    table = {number: state for state, number in _STATES.items()}
    return {known(table, value, "container state") for value in values}
