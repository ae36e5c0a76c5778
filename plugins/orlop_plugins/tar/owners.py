"""Whom an archive's files belong to: those it names, or others for ids of a user namespace."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from orlopd.plugin.errors import InvalidArgument

_REVISION_2, _REVISION_3, _REVISION_MASK = 0x02000000, 0x03000000, 0xFF000000


@dataclass(frozen=True, slots=True)
class Owners:
    """Maps of ids as ``INSIDE:OUTSIDE:SIZE,…``; empty ones change nothing."""

    uids: str = ""
    gids: str = ""

    def __bool__(self) -> bool:
        return bool(self.uids or self.gids)

    def uid(self, inside: int) -> int:
        """A user id outside. :raises InvalidArgument: the map has none for it"""
        return _outside(self.uids, inside, "user")

    def gid(self, inside: int) -> int:
        """A group id outside. :raises InvalidArgument: the map has none for it"""
        return _outside(self.gids, inside, "group")

    def capability(self, value: bytes) -> bytes:
        """``security.capability`` as it counts in the user namespace: capabilities(7), version 3."""
        if not self or len(value) < 20:
            return value
        (magic,) = struct.unpack_from("<I", value)
        if magic & _REVISION_MASK != _REVISION_2:
            return value
        return (
            struct.pack("<I", magic & ~_REVISION_MASK | _REVISION_3)
            + value[4:20]
            + struct.pack("<I", self.uid(0))
        )


NAMED = Owners()
"""Those that the archive names."""


def _outside(ranges: str, inside: int, what: str) -> int:
    if not ranges:
        return inside
    for entry in ranges.split(","):
        first, outside, size = map(int, entry.split(":"))
        if first <= inside < first + size:
            return outside + inside - first
    raise InvalidArgument(
        f"an entry belongs to {what} {inside}, whom the container's user namespace does not have",
        reason="ID_NOT_MAPPED",
    )
