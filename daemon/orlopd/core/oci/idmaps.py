"""Maps of ids for user namespaces: written by hand, or a user's ranges out of /etc/subuid and /etc/subgid."""

from __future__ import annotations

import grp
import pwd
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from orlopd.plugin.errors import InvalidArgument, NotFound

from .types import IdMapping
from .users import LAST_ID

MOST_RANGES = 340
"""user_namespaces(7): as many lines as a map may have."""
_MOST_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class IdRange:
    """``size`` ids from ``inside`` on are those from ``outside`` on for the machine."""

    inside: int
    outside: int
    size: int


@dataclass(frozen=True, slots=True)
class UserNamespace:
    """What was asked for: ranges, or in ``remap`` the user (and group) whose ranges they are. Empty: none."""

    uids: tuple[IdRange, ...] = ()
    gids: tuple[IdRange, ...] = ()
    remap: str = ""

    def __bool__(self) -> bool:
        return bool(self.uids or self.gids or self.remap)


@dataclass(frozen=True, slots=True)
class IdMaps:
    """What a container's ids are for the machine. Empty: the same."""

    uids: tuple[IdRange, ...] = ()
    gids: tuple[IdRange, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.uids)

    def uid(self, inside: int) -> int:
        """A user id outside. :raises InvalidArgument: the map has none for it"""
        return _outside(self.uids, inside, "user")

    def gid(self, inside: int) -> int:
        """A group id outside. :raises InvalidArgument: the map has none for it"""
        return _outside(self.gids, inside, "group")

    def has_gid(self, inside: int) -> bool:
        """Whether the map has a group id."""
        return not self or any(each.inside <= inside < each.inside + each.size for each in self.gids)

    @property
    def mappings(self) -> tuple[list[IdMapping], list[IdMapping]]:
        """For users and groups, as a runtime spec has them."""
        return _mappings(self.uids), _mappings(self.gids)

    @property
    def options(self) -> tuple[str, str]:
        """For users and groups, as containerd writes them: ``CONTAINER:HOST:SIZE,…``."""
        return _text(self.uids), _text(self.gids)


NO_MAPS = IdMaps()


def resolve_maps(wanted: UserNamespace, etc: Path = Path("/etc")) -> IdMaps:
    """The maps that were asked for. Blocks: it may read files.

    :raises InvalidArgument: ranges that overlap, are out of range, or leave out root
    :raises NotFound: the user is not known or has no ranges
    """
    if not wanted:
        return NO_MAPS
    if wanted.remap and (wanted.uids or wanted.gids):
        raise InvalidArgument("ids are mapped either as a user's are or by ranges, not both")
    if wanted.remap:
        return _remap(wanted.remap, etc)
    if not wanted.uids:
        raise InvalidArgument("a map of group ids needs one of user ids", reason="BAD_ID_MAP")
    return IdMaps(check_ranges(wanted.uids, "user"), check_ranges(wanted.gids or wanted.uids, "group"))


def check_ranges(ranges: Sequence[IdRange], what: str) -> tuple[IdRange, ...]:
    """:raises InvalidArgument: the kernel would not take them, or 0 is not among those inside"""

    def bad(why: str) -> InvalidArgument:
        return InvalidArgument(f"malformed map of {what} ids: {why}", reason="BAD_ID_MAP")

    if len(ranges) > MOST_RANGES:
        raise bad(f"{len(ranges)} ranges, {MOST_RANGES} is the most")
    for each in ranges:
        last = max(each.inside, each.outside) + each.size - 1
        if each.size < 1 or min(each.inside, each.outside) < 0 or last > LAST_ID:
            raise bad(f"{each.inside}:{each.outside}:{each.size} is empty or beyond {LAST_ID}")
    for side in ("inside", "outside"):
        ordered = sorted(ranges, key=lambda each: getattr(each, side))
        for before, after in pairwise(ordered):
            if getattr(before, side) + before.size > getattr(after, side):
                raise bad(f"two ranges overlap {side}, at {getattr(after, side)}")
    if not any(each.inside == 0 for each in ranges):
        raise bad("it has no id 0, which is root's inside")
    return tuple(sorted(ranges, key=lambda each: each.inside))


def _remap(wanted: str, etc: Path) -> IdMaps:
    user, colon, group = wanted.partition(":")
    if not user or (colon and not group):
        raise InvalidArgument(f"malformed {wanted!r}: want USER or USER:GROUP", reason="BAD_ID_MAP")
    uid, name = _user(user)
    gid, group_name = _group(group) if group else (uid, name)
    return IdMaps(
        _subordinate(etc / "subuid", uid, name, "user"),
        _subordinate(etc / "subgid", gid, group_name, "group"),
    )


def _user(user: str) -> tuple[int, str]:
    try:
        found = pwd.getpwuid(int(user)) if user.isdecimal() else pwd.getpwnam(user)
    except (KeyError, OverflowError, ValueError):
        if user.isdecimal():
            return int(user), user
        raise NotFound(f"there is no user {user!r} on this machine", reason="UNKNOWN_USER") from None
    return found.pw_uid, found.pw_name


def _group(group: str) -> tuple[int, str]:
    try:
        found = grp.getgrgid(int(group)) if group.isdecimal() else grp.getgrnam(group)
    except (KeyError, OverflowError, ValueError):
        if group.isdecimal():
            return int(group), group
        raise NotFound(f"there is no group {group!r} on this machine", reason="UNKNOWN_GROUP") from None
    return found.gr_gid, found.gr_name


def _subordinate(path: Path, id: int, name: str, what: str) -> tuple[IdRange, ...]:
    """The ranges of subuid(5) for a user, one after the other from 0 on."""
    try:
        with path.open("rb") as file:
            text = file.read(_MOST_BYTES).decode("utf-8", "replace")
    except OSError as error:
        raise NotFound(f"{path}: {error.strerror}", reason="NO_SUBORDINATE_IDS") from error
    ranges: list[IdRange] = []
    inside = 0
    for line in text.splitlines():
        owner, _, rest = line.partition(":")
        first, _, count = rest.partition(":")
        if owner in (name, str(id)) and first.isdecimal() and count.isdecimal() and int(count):
            ranges.append(IdRange(inside, int(first), int(count)))
            inside += int(count)
    if not ranges:
        raise NotFound(
            f"{path} gives {name} no {what} ids",
            reason="NO_SUBORDINATE_IDS",
            hint=f"add a line to it: {name}:100000:65536",
        )
    return check_ranges(ranges, what)


def _outside(ranges: Sequence[IdRange], inside: int, what: str) -> int:
    for each in ranges:
        if each.inside <= inside < each.inside + each.size:
            return each.outside + inside - each.inside
    raise InvalidArgument(
        f"{what} {inside} is not in the map of the container's user namespace", reason="ID_NOT_MAPPED"
    )


def _mappings(ranges: Sequence[IdRange]) -> list[IdMapping]:
    return [IdMapping(containerID=each.inside, hostID=each.outside, size=each.size) for each in ranges]


def _text(ranges: Sequence[IdRange]) -> str:
    return ",".join(f"{each.inside}:{each.outside}:{each.size}" for each in ranges)
