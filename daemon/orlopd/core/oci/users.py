"""Who a container's process is: ``user[:group]`` looked up in the root filesystem's own passwd and group."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from orlopd.plugin.errors import InvalidArgument

from .rootfs import Rootfs

# Larger than any real one, small enough to read for every container.
MOST_BYTES = 1 << 20
# 2**32 - 1 is how the kernel says "none".
LAST_ID = 2**32 - 2

_NUMBER = re.compile(r"[0-9]+")
_NAME = re.compile(r"[^\s:\0+-][^\s:\0]{0,255}")


@dataclass(frozen=True, slots=True)
class User:
    """A process's identity. ``additional_gids`` holds the primary gid too."""

    uid: int = 0
    gid: int = 0
    additional_gids: tuple[int, ...] = ()
    name: str = ""
    home: str = ""


@dataclass(frozen=True, slots=True)
class _Entry:
    name: str
    uid: int
    gid: int
    home: str


def check_user(wanted: str) -> None:
    """:raises InvalidArgument: malformed or out of range, whatever the root filesystem holds"""
    for part in _parts(wanted):
        if part:
            _id(part, wanted)


def _parts(wanted: str) -> tuple[str, str]:
    user, colon, group = (wanted or "0").partition(":")
    if not user or (colon and not group):
        raise InvalidArgument(f"malformed user {wanted!r}: want user, uid, user:group or uid:gid")
    return user, group


def resolve_user(wanted: str, rootfs: Rootfs | None) -> User:
    """Look a user up as Docker and containerd do.

    :param wanted: "" (root), or user, uid, user:group, uid:gid, user:gid, uid:group
    :param rootfs: where to look names up; None knows numbers alone
    :raises InvalidArgument: malformed, out of range, or a name that is not there
    :raises ResourceExhausted: /etc/passwd or /etc/group is absurdly long
    """
    user, group = _parts(wanted)
    number = _id(user, wanted)
    found = next((entry for entry in _passwd(rootfs) if number in (entry.uid, None) and
                  (number is not None or entry.name == user)), None)  # fmt: skip
    if found is None and number is None:
        raise InvalidArgument(
            f"user {user!r} is not in the root filesystem's /etc/passwd",
            reason="UNKNOWN_USER",
            hint="give a number, which needs no entry, or make the user in the image",
        )
    uid = found.uid if found else number or 0
    name, home = (found.name, found.home) if found else ("", "")
    if group:
        gid = _group(group, wanted, rootfs)
        return User(uid, gid, (gid,), name, home)
    gid = found.gid if found else 0
    others = {other for _, other, members in _groups(rootfs) if name and name in members}
    return User(uid, gid, (gid, *sorted(others - {gid})), name, home)


def further_groups(who: User, asked: Sequence[str], rootfs: Rootfs | None) -> tuple[int, ...]:
    """A user's additional groups and those that a request adds, by name or number.

    :raises InvalidArgument: malformed, out of range, or a name that is not there
    """
    return tuple(dict.fromkeys((*who.additional_gids, *(_group(each, each, rootfs) for each in asked))))


def _id(text: str, wanted: str) -> int | None:
    # A number is never a name, in range or not: else an image's passwd could give it any meaning.
    if _NUMBER.fullmatch(text):
        if len(text) > 10 or int(text) > LAST_ID:
            raise InvalidArgument(
                f"user {wanted[:80]!r}: {text[:40]} is out of range, the largest id is {LAST_ID}",
                reason="USER_OUT_OF_RANGE",
            )
        return int(text)
    if not _NAME.fullmatch(text):
        raise InvalidArgument(f"malformed user {wanted[:80]!r}: want user, uid, user:group or uid:gid")
    return None


def _group(text: str, wanted: str, rootfs: Rootfs | None) -> int:
    number = _id(text, wanted)
    if number is not None:
        return number
    for name, gid, _ in _groups(rootfs):
        if name == text:
            return gid
    raise InvalidArgument(
        f"group {text!r} is not in the root filesystem's /etc/group",
        reason="UNKNOWN_GROUP",
        hint="give a number, which needs no entry, or make the group in the image",
    )


def _passwd(rootfs: Rootfs | None) -> Iterator[_Entry]:
    for fields in _lines(rootfs, "/etc/passwd", 7):
        uid, gid = _field(fields[2]), _field(fields[3])
        if uid is not None and gid is not None:
            yield _Entry(fields[0], uid, gid, fields[5])


def _groups(rootfs: Rootfs | None) -> Iterator[tuple[str, int, list[str]]]:
    for fields in _lines(rootfs, "/etc/group", 4):
        gid = _field(fields[2])
        if gid is not None:
            yield fields[0], gid, fields[3].split(",")


def _field(text: str) -> int | None:
    if not _NUMBER.fullmatch(text) or len(text) > 10:
        return None
    return int(text) if int(text) <= LAST_ID else None


def _lines(rootfs: Rootfs | None, path: str, fields: int) -> Iterator[list[str]]:
    data = rootfs.read(path, MOST_BYTES) if rootfs else None
    for line in (data or b"").split(b"\n"):
        parts = line.decode("utf-8", "replace").rstrip("\r").split(":")
        # passwd(5) entries of small images often lack their last fields.
        if len(parts) >= 4 or (fields == 4 and len(parts) == 3):
            yield parts + [""] * (fields - len(parts))
