"""Trees to make layers of: what is in them, how they are made and changed, and what they are then."""

from __future__ import annotations

import contextlib
import os
import stat
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hypothesis import strategies as st

from orlopd.plugin.files import remove_tree

# Paths are bytes: what is in a tree need not be text.
# ruff: noqa: PTH101, PTH102, PTH104, PTH123, PTH211

NANO = 10**9

COMMON = [b"a", b"b", b"c"]
ODD = [
    *(b"\xff\xfe", "ünï".encode(), b"new\nline", b"n" * 255, b"-rf", b"a=b %d", b".wh", b" ", b"...", b"\\"),
    *(b"x" * 99, b"x" * 100, b"x" * 101, b"GNUSparseFile.0", b".wh"),
]
NAMES = st.one_of(st.sampled_from(COMMON), st.sampled_from(COMMON), st.sampled_from([*COMMON, *ODD]))
PATHS = st.lists(NAMES, min_size=1, max_size=3).map(b"/".join)

# vfs_ns_cap_data of linux/capability.h: CAP_NET_RAW, of the initial user namespace and of another one.
CAPABILITY = struct.pack("<5I", 0x02000001, 1 << 13, 0, 0, 0)
CAPABILITY_3 = struct.pack("<6I", 0x03000001, 1 << 13, 0, 0, 0, 1000)
# posix_acl_xattr.h: version 2; owner rwx, user 1000 r-x, group r-x, mask r-x, others ---
NOBODY = (1 << 32) - 1
ACL = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", *entry)
    for entry in ((1, 7, NOBODY), (2, 5, 1000), (4, 5, NOBODY), (16, 5, NOBODY), (32, 0, NOBODY))
)
XATTRS = [
    *(
        (b"user.empty", b""),
        (b"user.bytes", bytes(range(256))),
        (b"user.a=b %3D %", b"="),
        (b"user.\xff", b"x\n"),
    ),
    *((b"security.capability", CAPABILITY), (b"security.capability", CAPABILITY_3)),
    *((b"trusted.of-root", b"t"), (b"user.colour", b"blue"), (b"user.colour", b"red")),
    (b"system.posix_acl_access", ACL),
]


@dataclass(frozen=True)
class Attributes:
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    seconds: int = 1_500_000_000
    whole: bool = True
    xattrs: tuple[tuple[bytes, bytes], ...] = ()


ATTRIBUTES = st.builds(
    Attributes,
    mode=st.sampled_from([0, 0o644, 0o755, 0o4755, 0o2711, 0o1777, 0o7777]),
    uid=st.sampled_from([0, 0, 1, 1000, 0o7777777, 0o10000000, (1 << 32) - 2]),
    gid=st.sampled_from([0, 0, 5, 0o10000000, (1 << 32) - 2]),
    seconds=st.one_of(
        st.sampled_from([0, -1, -(1 << 31), (1 << 31) - 1, 0o77777777777]),
        st.integers(min_value=-(1 << 31), max_value=1 << 33),
    ).filter(lambda seconds: seconds < 1 << 34),
    whole=st.booleans(),
    xattrs=st.lists(st.sampled_from(XATTRS), max_size=2).map(tuple),
)


@dataclass(frozen=True)
class Step:
    """One thing done to a tree. ``other`` is a second path, a symlink's target, or bytes of a file."""

    what: str
    path: bytes
    other: bytes = b""
    attributes: Attributes = Attributes()
    holes: tuple[int, ...] = ()


def steps(*whats: str) -> st.SearchStrategy[Step]:
    return st.one_of(
        st.builds(Step, st.sampled_from(whats), PATHS, PATHS, ATTRIBUTES),
        st.builds(Step, st.just("file"), PATHS, st.binary(max_size=40), ATTRIBUTES),
        st.builds(
            *(Step, st.just("file"), PATHS, st.binary(min_size=1, max_size=9), ATTRIBUTES),
            st.lists(st.integers(0, 3), min_size=1, max_size=3, unique=True).map(sorted).map(tuple),
        ),
        st.builds(
            *(
                Step,
                st.just("symlink"),
                PATHS,
                st.sampled_from([b"a", b"\xff" * 9, b"/../" * 400]),
                ATTRIBUTES,
            )
        ),
    )


MAKING = ["folder", "folder", "fifo", "char", "block", "link", "link", "file", "symlink"]
CHANGING = ["remove", "remove", "attributes", "append", "rename", "touch", "anew"]
TREES = st.lists(steps(*MAKING[:-2]), max_size=12)
CHANGES = st.lists(steps(*MAKING[:-2], *CHANGING, *CHANGING), max_size=8)


class Tree:
    """Carries out steps below a folder. Where one makes no sense, nothing happens."""

    def __init__(self, root: Path, began: int = 0) -> None:
        self._root = os.fsencode(root)
        self._count = began

    def do(self, steps: Sequence[Step]) -> None:
        for step in steps:
            self._count += 1
            if step.what in MAKING or self._has(step.path):
                self._step(step, self._root + b"/" + step.path)

    def _has(self, name: bytes) -> bool:
        """Whether it is there, not through a symlink."""
        path = self._root
        *parents, last = name.split(b"/")
        for part in parents:
            path += b"/" + part
            if not os.path.lexists(path) or not stat.S_ISDIR(os.lstat(path).st_mode):
                return False
        return os.path.lexists(path + b"/" + last)

    def _step(self, step: Step, path: bytes) -> None:
        if step.what == "remove":
            remove_tree(path)
        elif step.what == "attributes":
            self._attributes(path, step.attributes)
        elif step.what == "touch":
            os.utime(path, ns=(0, self._time(step.attributes)), follow_symlinks=False)
        elif step.what == "append":
            if stat.S_ISREG(os.lstat(path).st_mode):
                with open(path, "ab") as file:
                    file.write(b"appended")
        elif step.what == "anew":
            if stat.S_ISDIR(os.lstat(path).st_mode):
                remove_tree(path)
                os.mkdir(path)
                self._attributes(path, step.attributes)
        elif step.what == "rename":
            if not (step.other + b"/").startswith(step.path + b"/") and not step.path.startswith(
                step.other + b"/"
            ):
                with contextlib.suppress(OSError):  # EXDEV: a directory of the layers below
                    os.rename(path, self._place(step.other))
        else:
            self._make(step, path)

    def _make(self, step: Step, path: bytes) -> None:
        if step.what == "link":
            target = self._root + b"/" + step.other
            if not self._has(step.other) or stat.S_ISDIR(os.lstat(target).st_mode):
                return
            if (step.path + b"/").startswith(step.other + b"/") or step.other.startswith(step.path + b"/"):
                return
            self._place(step.path)
            os.link(target, path, follow_symlinks=False)
            return
        self._place(step.path)
        if step.what == "folder":
            os.mkdir(path)
        elif step.what == "symlink":
            os.symlink(step.other, path)
        elif step.what == "fifo":
            os.mkfifo(path)
        elif step.what == "char":
            os.mknod(path, stat.S_IFCHR, os.makedev(4095, (1 << 20) - 1))
        elif step.what == "block":
            os.mknod(path, stat.S_IFBLK, os.makedev(7, 300))
        else:
            with open(path, "xb") as file:
                for hole in step.holes:
                    file.seek(hole * 100_000 + 50_000)
                    file.write(step.other)
                if step.holes:
                    file.truncate(400_000)
                else:
                    file.write(step.other)
        self._attributes(path, step.attributes)

    def _place(self, name: bytes) -> bytes:
        """Make room for something at ``name``, and directories on the way."""
        path = self._root
        *parents, last = name.split(b"/")
        for part in parents:
            path += b"/" + part
            if not os.path.lexists(path) or not stat.S_ISDIR(os.lstat(path).st_mode):
                remove_tree(path)
                os.mkdir(path)
        path += b"/" + last
        remove_tree(path)
        return path

    def _attributes(self, path: bytes, wanted: Attributes) -> None:
        os.chown(path, wanted.uid, wanted.gid, follow_symlinks=False)
        kind = stat.S_IFMT(os.lstat(path).st_mode)
        for name, value in wanted.xattrs:
            if name.startswith(b"trusted.") or kind == stat.S_IFREG or (
                kind == stat.S_IFDIR and not name.startswith(b"security.")
            ):  # fmt: skip
                os.setxattr(path, name, value, follow_symlinks=False)
        if kind != stat.S_IFLNK:
            os.chmod(path, wanted.mode)
        os.utime(path, ns=(0, self._time(wanted)), follow_symlinks=False)

    def _time(self, wanted: Attributes) -> int:
        # No two steps give the same fraction: what was changed without a trace is not looked for.
        return wanted.seconds * NANO + (0 if wanted.whole else 500_000_000 + self._count)


def blocks(root: Path) -> dict[str, int]:
    """How much of the disk the files have, by name."""
    return {
        str(path.relative_to(root)): path.lstat().st_blocks
        for path in root.rglob("*")
        if stat.S_ISREG(path.lstat().st_mode)
    }
