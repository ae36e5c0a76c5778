"""The errors that may cross a wall of the house.

Each class is one situation of the caller and maps to one gRPC status code; nothing else may come
out of a plugin, the core or a service. Whatever arrives from outside (a registry, an archive, a
client, a shim) is turned into one of these where it arrives.

A message says what was asked, what was found and what to do, in one line. ``reason`` is a stable
word for programs (UPPER_SNAKE_CASE), ``resource`` names what the error is about, ``hint`` is a
sentence for the person at the terminal.
"""

from __future__ import annotations

from typing import ClassVar


class OrlopError(Exception):
    """Base of every error of the house.

    :param message: one line for a person
    :param reason: a stable word for programs; the class's own when empty
    :param resource: what it is about, for example ``image docker.io/library/alpine:latest``
    :param hint: what to do about it
    """

    code: ClassVar[str] = "UNKNOWN"
    default_reason: ClassVar[str] = "UNKNOWN"

    def __init__(self, message: str, *, reason: str = "", resource: str = "", hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason or self.default_reason
        self.resource = resource
        self.hint = hint

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.message, self.reason, self.resource, self.hint)


def _rebuild(kind: type[OrlopError], message: str, reason: str, resource: str, hint: str) -> OrlopError:
    return kind(message, reason=reason, resource=resource, hint=hint)


class NotFound(OrlopError):
    """What was named does not exist."""

    code = "NOT_FOUND"
    default_reason = "NOT_FOUND"


class AlreadyExists(OrlopError):
    """What was to be made is there already."""

    code = "ALREADY_EXISTS"
    default_reason = "ALREADY_EXISTS"


class InvalidArgument(OrlopError):
    """The request (or an archive, a manifest, a config file) is malformed; trying again will not help."""

    code = "INVALID_ARGUMENT"
    default_reason = "INVALID_ARGUMENT"


class FailedPrecondition(OrlopError):
    """Right request, wrong state of the system; another call must come first."""

    code = "FAILED_PRECONDITION"
    default_reason = "FAILED_PRECONDITION"


class Unavailable(OrlopError):
    """Cannot be reached or is busy; the same call may succeed later."""

    code = "UNAVAILABLE"
    default_reason = "UNAVAILABLE"


class Unimplemented(OrlopError):
    """The plugin or this machine cannot do what was asked."""

    code = "UNIMPLEMENTED"
    default_reason = "UNIMPLEMENTED"


class PermissionDenied(OrlopError):
    """The caller (or the daemon, at a registry) may not do this."""

    code = "PERMISSION_DENIED"
    default_reason = "PERMISSION_DENIED"


class Unauthenticated(OrlopError):
    """Credentials are missing or wrong."""

    code = "UNAUTHENTICATED"
    default_reason = "UNAUTHENTICATED"


class DeadlineExceeded(OrlopError):
    """A peer or a program did not answer in time."""

    code = "DEADLINE_EXCEEDED"
    default_reason = "DEADLINE_EXCEEDED"


class ResourceExhausted(OrlopError):
    """A limit was met: disk, memory, entries of an archive, a client's buffer."""

    code = "RESOURCE_EXHAUSTED"
    default_reason = "RESOURCE_EXHAUSTED"


class OutOfRange(OrlopError):
    """An offset or size lies outside what is there."""

    code = "OUT_OF_RANGE"
    default_reason = "OUT_OF_RANGE"


class Aborted(OrlopError):
    """Another call changed the same thing first; read again and retry."""

    code = "ABORTED"
    default_reason = "ABORTED"


class DataLoss(OrlopError):
    """What arrived or was read does not match its digest or size."""

    code = "DATA_LOSS"
    default_reason = "DATA_LOSS"


class Internal(OrlopError):
    """A fault of this program or of a plugin; the log has the details."""

    code = "INTERNAL"
    default_reason = "INTERNAL"


class Skip(Exception):
    """Raised by a provider's probe: this plugin does not suit this machine, and why."""
