"""Errors of the house as google.rpc.Status and back. The numbers are gRPC's."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from google.rpc import status_pb2

from orlopd.plugin import errors
from orlopd.plugin.errors import OrlopError

_NUMBERS = {
    "CANCELLED": 1,
    "UNKNOWN": 2,
    "INVALID_ARGUMENT": 3,
    "DEADLINE_EXCEEDED": 4,
    "NOT_FOUND": 5,
    "ALREADY_EXISTS": 6,
    "PERMISSION_DENIED": 7,
    "RESOURCE_EXHAUSTED": 8,
    "FAILED_PRECONDITION": 9,
    "ABORTED": 10,
    "OUT_OF_RANGE": 11,
    "UNIMPLEMENTED": 12,
    "INTERNAL": 13,
    "UNAVAILABLE": 14,
    "DATA_LOSS": 15,
    "UNAUTHENTICATED": 16,
}
_DETAILS = "orlop-error"
_CLASSES: dict[int, type[OrlopError]] = {
    _NUMBERS[kind.code]: kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, OrlopError) and kind.code in _NUMBERS
}


def status_of(error: OrlopError) -> Any:
    """The google.rpc.Status that says an error."""
    return status_pb2.Status(code=_NUMBERS.get(error.code, 2), message=error.message)


def details_of(error: OrlopError) -> Mapping[str, str]:
    """What a status has no place for, as metadata."""
    fields = {"reason": error.reason, "resource": error.resource, "hint": error.hint}
    known = {key: value for key, value in fields.items() if value}
    return {_DETAILS: json.dumps(known)} if known else {}


def error_of(status: Any, metadata: Mapping[str, str] | None = None) -> OrlopError:
    """The error that a google.rpc.Status says; a code that we have no class for becomes Internal.

    :param metadata: perhaps with its details
    """
    try:
        fields = json.loads((metadata or {}).get(_DETAILS, "{}"))
    except ValueError:
        fields = {}
    fields = fields if isinstance(fields, dict) else {}
    known = {key: str(fields[key]) for key in ("reason", "resource", "hint") if fields.get(key)}
    return _CLASSES.get(status.code, errors.Internal)(status.message or "no reason was given", **known)
