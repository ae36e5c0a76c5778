"""Extended attributes as EROFS has them: a number for the namespace, the rest of the name, the value."""

from __future__ import annotations

import struct

from orlopd.plugin.errors import InvalidArgument

_HEADER = struct.Struct("<IB7x")
_ENTRY = struct.Struct("<BBH")
_PREFIXES = (
    (1, b"user."),
    (2, b"system.posix_acl_access"),
    (3, b"system.posix_acl_default"),
    (4, b"trusted."),
    (6, b"security."),
)
_NAMES = dict(_PREFIXES)
_MAX_NAME, _MAX_VALUE = 255, (1 << 16) - 1
_MAX_ALL = 12 + 4 * ((1 << 16) - 2)


def _split(name: bytes) -> tuple[int, bytes] | None:
    for index, prefix in _PREFIXES:
        if prefix.endswith(b"."):
            if name.startswith(prefix):
                return index, name[len(prefix) :]
        elif name == prefix:
            return index, b""
    return None


def has_place(name: bytes) -> bool:
    """Whether EROFS has attributes of this kind."""
    return _split(name) is not None


def encode(xattrs: dict[bytes, bytes] | None) -> bytes:
    """What follows an inode. :raises InvalidArgument: they are too many or too long"""
    if not xattrs:
        return b""
    parts = [_HEADER.pack(0, 0)]
    for name in sorted(xattrs):
        value = xattrs[name]
        split = _split(name)
        if split is None:
            continue
        index, rest = split
        if len(name) > _MAX_NAME or len(value) > _MAX_VALUE or (not rest and _NAMES[index].endswith(b".")):
            raise InvalidArgument(
                f"no extended attribute has a name of {len(name)} and a value of {len(value)} bytes",
                reason="MALFORMED_ARCHIVE",
            )
        entry = _ENTRY.pack(len(rest), index, len(value)) + rest + value
        parts.append(entry + bytes(-len(entry) % 4))
    data = b"".join(parts)
    if len(data) > _MAX_ALL:
        raise InvalidArgument(
            f"a file has {len(data)} bytes of extended attributes, EROFS has place for {_MAX_ALL}",
            reason="MALFORMED_ARCHIVE",
        )
    return data if len(parts) > 1 else b""


def decode(data: bytes) -> dict[bytes, bytes] | None:
    """The inverse of :func:`encode`. :raises ValueError: it has shared attributes, which we never write"""
    if not data:
        return None
    if _HEADER.unpack_from(data)[1]:
        raise ValueError("shared extended attributes")
    found: dict[bytes, bytes] = {}
    at = _HEADER.size
    while at < len(data):
        length, index, size = _ENTRY.unpack_from(data, at)
        at += _ENTRY.size
        found[_NAMES[index] + data[at : at + length]] = data[at + length : at + length + size]
        at += length + size
        at += -at % 4
    return found or None


def count(size: int) -> int:
    """What an inode says of ``size`` bytes of attributes."""
    return (size - _HEADER.size) // 4 + 1 if size else 0


def size(count: int) -> int:
    """The inverse of :func:`count`."""
    return _HEADER.size + 4 * (count - 1) if count else 0
