"""Errors and times between shim and daemon.

A shim's error is a gRPC status with the house's code; reason, resource and hint travel beside it in one
binary trailing header, as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import grpc.aio
from google.protobuf.timestamp_pb2 import Timestamp

from orlopd.plugin import errors
from orlopd.plugin.errors import OrlopError, Unavailable

ERROR_HEADER = "orlop-error-bin"
REASON_HEADER = "orlop-exit-reason-bin"
VERSION = "orlop-1"

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_CLASSES: dict[str, type[OrlopError]] = {
    kind.code: kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, OrlopError) and kind is not OrlopError
}


def pack_error(error: OrlopError) -> tuple[tuple[str, bytes], ...]:
    """The trailing header that carries what a status cannot."""
    fields = {"reason": error.reason, "resource": error.resource, "hint": error.hint}
    return ((ERROR_HEADER, json.dumps(fields).encode()),)


def unpack_error(code: str, message: str, trailing: Any) -> OrlopError:
    """The error that a status stands for. ``trailing`` are its headers, pairs of key and value."""
    fields: dict[str, str] = {}
    for key, value in trailing or ():
        if key == ERROR_HEADER:
            try:
                fields = json.loads(value)
            except ValueError:
                fields = {}
    kind = _CLASSES.get(code, errors.Internal)
    known = {key: str(fields[key]) for key in ("reason", "resource", "hint") if fields.get(key)}
    return kind(message, **known)


def error_of(error: grpc.aio.AioRpcError) -> OrlopError:
    """A failed gRPC call as an error of the house."""
    if error.code() is grpc.StatusCode.UNAVAILABLE:
        return Unavailable("the shim cannot be reached", reason="SHIM_UNREACHABLE")
    return unpack_error(error.code().name, error.details() or "", error.trailing_metadata())


@contextmanager
def unreachable() -> Iterator[None]:
    """Say of a ttrpc connection that is not there that it is the shim's."""
    try:
        yield
    except Unavailable as error:
        if error.reason != "TTRPC_UNREACHABLE":
            raise
        raise Unavailable("the shim cannot be reached", reason="SHIM_UNREACHABLE") from error


def header(trailing: Any, name: str) -> str:
    """A binary trailing header as text; "" where it is missing."""
    for key, value in trailing or ():
        if key == name:
            return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
    return ""


def to_timestamp(at: datetime) -> Timestamp:
    since = at - _EPOCH
    return Timestamp(seconds=since.days * 86400 + since.seconds, nanos=since.microseconds * 1000)


def from_timestamp(at: Timestamp) -> datetime:
    return _EPOCH + timedelta(seconds=at.seconds, microseconds=at.nanos // 1000)
