"""Frames: a header of ten bytes and a payload, and the messages of requests and responses in them."""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from orlopd.plugin.errors import DataLoss, InvalidArgument

M = TypeVar("M", bound=Message)

HEADER = struct.Struct(">IIBB")
MOST_PAYLOAD = 4 << 20
"""The most bytes of a payload; a peer that announces more is cut off."""


class FrameType(enum.IntEnum):
    """What a frame carries."""

    REQUEST = 1
    RESPONSE = 2
    DATA = 3


class Flag(enum.IntFlag):
    """What a frame says of its stream."""

    REMOTE_CLOSED = 1
    REMOTE_OPEN = 2
    NO_DATA = 4


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame. ``stream`` is odd for calls that a client began; ``type`` may be one we do not know."""

    stream: int
    type: int
    flags: int
    payload: bytes

    def pack(self) -> bytes:
        """:raises InvalidArgument: the payload is too large to be sent"""
        if len(self.payload) > MOST_PAYLOAD:
            raise InvalidArgument(
                f"a message of {len(self.payload)} bytes: ttrpc carries {MOST_PAYLOAD} at most"
            )
        return HEADER.pack(len(self.payload), self.stream, self.type, self.flags) + self.payload


class FrameError(Exception):
    """What came is no ttrpc; the connection cannot go on."""


class FrameReader:
    """Cuts a stream of bytes into frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        """The frames that are whole now.

        :raises FrameError: a payload larger than the protocol allows is announced
        """
        self._buffer += data
        while len(self._buffer) >= HEADER.size:
            length, stream, kind, flags = HEADER.unpack_from(self._buffer)
            if length > MOST_PAYLOAD:
                raise FrameError(f"a payload of {length} bytes is announced, {MOST_PAYLOAD} are allowed")
            end = HEADER.size + length
            if len(self._buffer) < end:
                return
            payload = bytes(self._buffer[HEADER.size : end])
            del self._buffer[:end]
            yield Frame(stream, kind, flags, payload)


def decoded(kind: type[M], data: bytes, peer: str) -> M:
    """The message that a peer sent. :raises DataLoss: it is no such message"""
    message = kind()
    try:
        message.ParseFromString(data)
    except DecodeError as error:
        raise DataLoss(f"{peer} sent a malformed {kind.__name__}: {error}") from error
    return message
