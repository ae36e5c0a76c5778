"""What can go wrong, named for the caller's situation.

Everything that a call of this package raises on its own account is an ``OrlopError``. The daemon's errors
arrive as gRPC statuses with google.rpc details; ``from_rpc`` takes them apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    import grpc

DOMAIN = "orlop.dev"
DETAILS = "grpc-status-details-bin"
NO_METADATA: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Resource:
    """What an error is about: a kind ("container", "image") and the name that was asked for."""

    type: str
    name: str


class OrlopError(Exception):
    """A call failed.

    ``code`` is the name of the gRPC status code ("NOT_FOUND"), ``reason`` a stable word for programs
    ("COMMAND_NOT_FOUND", empty when there is none), ``message`` one sentence, ``hint`` what a person might do
    about it.
    """

    default_code: ClassVar[str] = "UNKNOWN"

    def __init__(
        self,
        message: str,
        *,
        code: str = "",
        reason: str = "",
        hint: str = "",
        resource: Resource | None = None,
        metadata: Mapping[str, str] = NO_METADATA,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code
        self.reason = reason
        self.hint = hint
        self.resource = resource
        self.metadata = metadata

    def __str__(self) -> str:
        return self.message


class NotFound(OrlopError):
    """What was named is not there."""

    default_code = "NOT_FOUND"


class AlreadyExists(OrlopError):
    """The name is taken."""

    default_code = "ALREADY_EXISTS"


class InvalidArgument(OrlopError):
    """What was asked makes no sense, whatever the daemon's state."""

    default_code = "INVALID_ARGUMENT"


class FailedPrecondition(OrlopError):
    """What was asked cannot be done in the state that things are in."""

    default_code = "FAILED_PRECONDITION"


class CommandNotFound(FailedPrecondition):
    """The program to run does not exist in the container."""


class CommandNotExecutable(FailedPrecondition):
    """The program to run is there, but cannot be executed."""


class PermissionDenied(OrlopError):
    """The daemon, or a registry, says no."""

    default_code = "PERMISSION_DENIED"


class Unauthenticated(OrlopError):
    """A registry wants to know who asks."""

    default_code = "UNAUTHENTICATED"


class Unavailable(OrlopError):
    """Something that the daemon needs cannot be reached now."""

    default_code = "UNAVAILABLE"


class CannotConnect(Unavailable):
    """The daemon itself cannot be reached, or the connection to it was lost."""


class DeadlineExceeded(OrlopError):
    """It took too long."""

    default_code = "DEADLINE_EXCEEDED"


class ResourceExhausted(OrlopError):
    """A limit is reached."""

    default_code = "RESOURCE_EXHAUSTED"


class DataLoss(OrlopError):
    """What came is not what was promised: a digest does not match."""

    default_code = "DATA_LOSS"


class Unimplemented(OrlopError):
    """This daemon cannot do that."""

    default_code = "UNIMPLEMENTED"


class Cancelled(OrlopError):
    """The call was cancelled by the other side."""

    default_code = "CANCELLED"


class Aborted(OrlopError):
    """Somebody else changed the same thing at the same time."""

    default_code = "ABORTED"


class OutOfRange(OrlopError):
    """An offset or page lies beyond the end."""

    default_code = "OUT_OF_RANGE"


class InternalError(OrlopError):
    """A fault of the daemon's own."""

    default_code = "INTERNAL"


class SessionClosed(OrlopError):
    """Something was sent to a process whose stream has ended."""

    default_code = "FAILED_PRECONDITION"


BY_CODE: dict[str, type[OrlopError]] = {
    cls.default_code: cls
    for cls in (
        NotFound,
        AlreadyExists,
        InvalidArgument,
        FailedPrecondition,
        PermissionDenied,
        Unauthenticated,
        Unavailable,
        DeadlineExceeded,
        ResourceExhausted,
        DataLoss,
        Unimplemented,
        Cancelled,
        Aborted,
        OutOfRange,
        InternalError,
    )
}
BY_REASON: dict[str, type[OrlopError]] = {
    "COMMAND_NOT_FOUND": CommandNotFound,
    "COMMAND_NOT_EXECUTABLE": CommandNotExecutable,
}


def from_rpc(error: grpc.aio.AioRpcError) -> OrlopError:
    """The error that a call ended with, its google.rpc details included."""
    code = error.code().name
    message, reason, hint = error.details() or "no reason given", "", ""
    resource: Resource | None = None
    metadata: Mapping[str, str] = NO_METADATA
    for key, value in error.trailing_metadata() or ():
        if key == DETAILS and isinstance(value, bytes):
            message, reason, hint, resource, metadata = _details(value, message)
    cls = BY_REASON.get(reason) or BY_CODE.get(code) or OrlopError
    return cls(message, code=code, reason=reason, hint=hint, resource=resource, metadata=metadata)


def _details(raw: bytes, message: str) -> tuple[str, str, str, Resource | None, Mapping[str, str]]:
    from google.protobuf.message import DecodeError
    from google.rpc import error_details_pb2, status_pb2

    reason = hint = ""
    resource: Resource | None = None
    metadata: Mapping[str, str] = NO_METADATA
    info = error_details_pb2.ErrorInfo()
    about = error_details_pb2.ResourceInfo()
    localized = error_details_pb2.LocalizedMessage()
    try:
        status = status_pb2.Status.FromString(raw)
        for detail in status.details:
            if detail.Unpack(info) and info.domain == DOMAIN:
                reason, metadata = info.reason, dict(info.metadata)
            elif detail.Unpack(about):
                resource = Resource(about.resource_type, about.resource_name)
            elif detail.Unpack(localized):
                hint = localized.message
    except DecodeError:
        # The status itself is still true, only its details are lost.
        return message, reason, hint, resource, metadata
    return status.message or message, reason, hint, resource, metadata
