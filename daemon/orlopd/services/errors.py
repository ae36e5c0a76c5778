"""The one table from errors of the house to gRPC statuses.

What goes over the wire is a ``google.rpc.Status`` with ErrorInfo (reason, domain "orlop.dev"),
ResourceInfo and LocalizedMessage (the hint), in the trailing metadata ``grpc-status-details-bin``.
"""

from __future__ import annotations

import errno
import logging
import secrets
import sqlite3
from typing import Any

import grpc
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2

from orlopd.plugin.errors import Internal, OrlopError, ResourceExhausted

DOMAIN = "orlop.dev"

# A header block has 8 KiB by HTTP/2's custom, and the message travels in it twice.
_MESSAGE_LIMIT = 2000

_CODES = {code.name: code for code in grpc.StatusCode}
_FULL = (errno.ENOSPC, errno.EDQUOT)

_log = logging.getLogger("orlopd.server")


def find_error(error: BaseException) -> OrlopError | None:
    """The error of the house behind an exception; None when it is something else.

    Groups are looked into, and a full disk is known in whatever clothes it comes.
    """
    if isinstance(error, OrlopError):
        return error
    if isinstance(error, BaseExceptionGroup):
        found = [find_error(inner) for inner in error.exceptions]
        return found[0] if found and all(found) else None
    full = (isinstance(error, OSError) and error.errno in _FULL) or (
        isinstance(error, sqlite3.OperationalError) and error.sqlite_errorcode == sqlite3.SQLITE_FULL
    )
    if full:
        return ResourceExhausted(
            "no space left on the disk that the daemon writes to",
            reason="NO_SPACE",
            hint="Free some space, for example with `orlop system prune`, and try again.",
        )
    return None


def to_error(error: BaseException, method: str) -> OrlopError:
    """The error that the client of ``method`` is told; an unexpected one goes to the log whole."""
    found = find_error(error)
    if found is not None:
        return found
    mark = secrets.token_hex(4)
    _log.error("internal error %s in %s", mark, method, exc_info=error)
    return Internal(f"internal error (id {mark}, see the daemon's log)", resource=method)


def plainly(error: OrlopError) -> OrlopError:
    """The error as this house says it: without what messages have because containerd's own have it."""
    message, hint = error.message.removesuffix(": " + error.code.lower().replace("_", " ")), error.hint
    if error.reason == "SNAPSHOTTER_NOT_LOADED" and hint:
        message, hint = hint, ""  # containerd's words say less than the hint
    return type(error)(message, reason=error.reason, resource=error.resource, hint=hint)


def code_of(error: OrlopError) -> grpc.StatusCode:
    """The gRPC status code of an error."""
    return _CODES[error.code]


def to_status(error: OrlopError) -> status_pb2.Status:
    """The ``google.rpc.Status`` of an error."""
    code: Any = code_of(error).value
    status = status_pb2.Status(code=code[0], message=_cut(error.message))
    _pack(status, error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN))
    if error.resource:
        kind, _, name = _cut(error.resource).partition(" ")
        _pack(status, error_details_pb2.ResourceInfo(resource_type=kind, resource_name=name))
    if error.hint:
        _pack(status, error_details_pb2.LocalizedMessage(locale="en", message=_cut(error.hint)))
    return status


def _pack(status: status_pb2.Status, detail: Any) -> None:
    packed = any_pb2.Any()
    packed.Pack(detail)
    status.details.append(packed)


def _cut(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _MESSAGE_LIMIT else line[: _MESSAGE_LIMIT - 1] + "…"
