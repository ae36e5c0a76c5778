"""Between the contract's times and Python's."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp


def when(message: Any, name: str) -> datetime | None:
    """A timestamp field as a time, None when it is unset."""
    return getattr(message, name).ToDatetime(tzinfo=UTC) if message.HasField(name) else None


def timestamp(at: datetime | None) -> Timestamp | None:
    """A time as a message; one without a zone counts as local, as everywhere in Python."""
    if at is None:
        return None
    message = Timestamp()
    message.FromDatetime(at.astimezone(UTC))
    return message


def duration(seconds: float | None) -> Duration | None:
    """Seconds as a message."""
    if seconds is None:
        return None
    message = Duration()
    message.FromTimedelta(timedelta(seconds=seconds))
    return message
