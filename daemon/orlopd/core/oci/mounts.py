"""What is mounted into a container: the defaults, changed by what a request asks for."""

from __future__ import annotations

import enum
import posixpath
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from orlopd.plugin.errors import InvalidArgument, NotFound

from .types import MountEntry

PROPAGATION = frozenset(
    ("private", "rprivate", "shared", "rshared", "slave", "rslave", "unbindable", "runbindable")
)


class MountKind(enum.Enum):
    """What is mounted into a container."""

    BIND = "bind"
    TMPFS = "tmpfs"
    VOLUME = "volume"


@dataclass(frozen=True, slots=True)
class SpecMount:
    """A mount of a request. ``source`` is a path of the host for a bind, a name for a volume."""

    kind: MountKind
    target: str
    source: str = ""
    read_only: bool = False
    options: tuple[str, ...] = ()


def build_mounts(
    default: Sequence[MountEntry], files: Sequence[SpecMount], asked: Sequence[SpecMount]
) -> list[MountEntry]:
    """The defaults without what the request mounts itself, then ``files`` and ``asked``, outer ones first.

    :raises InvalidArgument: a mount makes no sense, or two have one target
    :raises NotFound: the source of a bind mount is not there
    """
    asked = [_target(item) for item in asked]
    targets = [item.target for item in asked]
    for target in targets:
        if targets.count(target) > 1:
            raise InvalidArgument(f"two mounts on {target!r}", reason="DUPLICATE_MOUNT")
    files = [item for item in files if item.target not in targets]
    kept = [entry for entry in default if entry["destination"] not in targets]
    # A mount on a directory would hide an earlier one below it.
    ordered = sorted([*files, *asked], key=lambda item: item.target.count("/"))
    return kept + [_entry(item) for item in ordered]


def root_propagation(mounts: Sequence[MountEntry]) -> str:
    """What the root's propagation must be for those of the mounts; "" where the runtime's default will do."""
    options = {option for entry in mounts for option in entry["options"]}
    if options & {"shared", "rshared"}:
        return "rshared"
    return "rslave" if options & {"slave", "rslave"} else ""


def _target(item: SpecMount) -> SpecMount:
    if not item.target.startswith("/") or "\0" in item.target:
        raise InvalidArgument(f"mount target {item.target[:200]!r} is not an absolute path")
    target = posixpath.normpath("/" + item.target.lstrip("/"))
    if target == "/":
        raise InvalidArgument("a mount on / would hide the root filesystem")
    for option in item.options:
        if not option or "," in option or "\0" in option:
            raise InvalidArgument(f"malformed mount option {option[:80]!r}")
    return replace(item, target=target)


def _entry(item: SpecMount) -> MountEntry:
    access = "ro" if item.read_only else "rw"
    if item.kind is MountKind.TMPFS:
        options = ["nosuid", "nodev", *([] if "exec" in item.options else ["noexec"]), *item.options, access]
        return MountEntry(destination=item.target, type="tmpfs", source="tmpfs", options=options)
    if not item.source.startswith("/") or "\0" in item.source:
        raise InvalidArgument(f"bind source {item.source[:200]!r} is not an absolute path")
    if not Path(item.source).exists():
        raise NotFound(
            f"bind source {item.source!r} is not there",
            reason="MOUNT_SOURCE_NOT_FOUND",
            resource=f"path {item.source}",
            hint="make it first: nothing is made on the host for a mount",
        )
    options = [] if {"bind", "rbind"} & set(item.options) else ["rbind"]
    options += [] if PROPAGATION & set(item.options) else ["rprivate"]
    return MountEntry(
        destination=item.target, type="bind", source=item.source, options=[*options, *item.options, access]
    )
