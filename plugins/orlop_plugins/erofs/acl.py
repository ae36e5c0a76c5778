"""POSIX ACLs as attributes: what the kernel does to one when it is set and when the mode changes."""

from __future__ import annotations

import struct

from orlop_plugins.tar.headers import malformed

ACCESS = b"system.posix_acl_access"
DEFAULT = b"system.posix_acl_default"

_VERSION = struct.pack("<I", 2)
_ENTRY = struct.Struct("<HHI")
_OWNER, _GROUP, _MASK, _OTHERS = 0x01, 0x04, 0x10, 0x20
_TAGS = {_OWNER, 0x02, _GROUP, 0x08, _MASK, _OTHERS}


def check(value: bytes) -> None:
    """:raises InvalidArgument: that is no ACL"""
    if value and (value[:4] != _VERSION or len(value) % 8 != 4):
        raise malformed("an ACL is of no known form")
    for tag, rights, _ in _ENTRY.iter_unpack(value[4:]):
        if tag not in _TAGS or rights > 7:
            raise malformed(f"an ACL has an entry of the unknown kind {tag}:{rights}")


def with_mode(value: bytes, mode: int) -> bytes:
    """The ACL of a file whose mode is set to this; empty if it says no more than the mode."""
    entries = list(_ENTRY.iter_unpack(value[4:]))
    tags = {entry[0] for entry in entries}
    if tags <= {_OWNER, _GROUP, _OTHERS}:
        return b""
    rights = {_OWNER: mode >> 6 & 7, _MASK if _MASK in tags else _GROUP: mode >> 3 & 7, _OTHERS: mode & 7}
    return _VERSION + b"".join(_ENTRY.pack(tag, rights.get(tag, had), who) for tag, had, who in entries)
