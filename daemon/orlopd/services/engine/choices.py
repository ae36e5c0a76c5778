"""What a request may choose along with its main matter."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from orlop_protos.orlop.engine.v1 import containers_pb2
from orlopd.core.engine import OnCancel, PullPolicy, Window
from orlopd.plugin.resolver import Credentials, ResolveOptions
from orlopd.services.convert import from_timestamp

from .enums import known

_PULLS = {
    containers_pb2.PULL_POLICY_UNSPECIFIED: PullPolicy.MISSING,
    containers_pb2.PULL_POLICY_MISSING: PullPolicy.MISSING,
    containers_pb2.PULL_POLICY_ALWAYS: PullPolicy.ALWAYS,
    containers_pb2.PULL_POLICY_NEVER: PullPolicy.NEVER,
}
_CANCELS = {
    containers_pb2.ON_CANCEL_UNSPECIFIED: OnCancel.DETACH,
    containers_pb2.ON_CANCEL_DETACH: OnCancel.DETACH,
    containers_pb2.ON_CANCEL_KILL: OnCancel.KILL,
}


def pull_policy(value: Any) -> PullPolicy:
    """:raises InvalidArgument: a value of a later version"""
    return known(_PULLS, value, "pull policy")


def on_cancel(value: Any) -> OnCancel:
    """:raises InvalidArgument: a value of a later version"""
    return known(_CANCELS, value, "on_cancel")


def window(message: Any) -> Window | None:
    """The window of options that may have one."""
    return Window(message.window.width, message.window.height) if message.HasField("window") else None


def resolve_options(message: Any) -> ResolveOptions:
    """Credentials and transport of options that have both."""
    given = message.credentials
    credentials = Credentials(given.username, given.secret) if message.HasField("credentials") else None
    return ResolveOptions(credentials, message.plain_http)


def moment(message: Any, field: str) -> datetime | None:
    """A timestamp field as a time, None where it is unset.

    :raises InvalidArgument: it is out of range
    """
    if not message.HasField(field):
        return None
    return from_timestamp(getattr(message, field))
