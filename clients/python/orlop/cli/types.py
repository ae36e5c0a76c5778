"""What the arguments of options look like."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from orlop.values import Mount

SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgtp]?)(?:i?b)?", re.IGNORECASE)
POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4, "p": 5}
MOUNT_FLAGS = frozenset(
    (
        *("ro", "rw", "suid", "nosuid", "dev", "nodev", "exec", "noexec", "sync", "async", "dirsync"),
        *("atime", "noatime", "diratime", "nodiratime", "relatime", "norelatime"),
        *("strictatime", "nostrictatime", "mand", "nomand"),
    )
)
BIND_OPTIONS = MOUNT_FLAGS | {
    *("bind", "rbind", "private", "rprivate", "shared", "rshared", "slave", "rslave"),
    *("unbindable", "runbindable"),
}
TMPFS_VALUES = frozenset(["size", "mode", "uid", "gid", "nr_inodes", "nr_blocks", "huge", "mpol"])


class Bytes(click.ParamType):
    """An amount of memory: 64m, 1.5g, 1048576; powers of 1024."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        match = SIZE.fullmatch(value.strip())
        if not match:
            self.fail(f"{value!r} is no amount of memory: write 64m, 1.5g or a number of bytes", param, ctx)
        return int(float(match[1]) * 1024 ** POWERS[match[2].lower()])


class Cpus(click.ParamType):
    """A number of processors, as billionths of one."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        if not re.fullmatch(r"\d*\.?\d+|\d+\.", value):
            self.fail(f"{value!r} is no number of processors: write 2 or 0.5", param, ctx)
        return round(float(value) * 1_000_000_000)


class Pair(click.ParamType):
    """KEY=VALUE; with ``default`` the value may be missing."""

    name = "key=value"

    def __init__(self, *, needs_value: bool = False) -> None:
        self.needs_value = needs_value

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        key, found, text = value.partition("=")
        if not key or (self.needs_value and not found):
            self.fail(f"{value!r} is not KEY=VALUE", param, ctx)
        return key, text


class Volume(click.ParamType):
    """SRC:DST[:OPTION,...]: a file or directory of this machine, or a volume by its name."""

    name = "src:dst[:ro]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Mount:
        from orlop.values import Mount, MountType

        source, _, rest = value.partition(":")
        target, _, flags = rest.partition(":")
        if not source or not target:
            self.fail(f"{value!r} is not SRC:DST", param, ctx)
        named = "/" not in source and source not in (".", "..")
        if not target.startswith("/"):
            self.fail(f"the path inside, {target!r}, is not absolute", param, ctx)
        options = [flag for flag in flags.split(",") if flag]
        for option in options:
            if option not in BIND_OPTIONS:
                known = "ro, rw, rshared, noexec, nosuid and nodev are some"
                self.fail(f"{option!r} is no option of a volume: {known}", param, ctx)
        return Mount(
            target=target,
            source=source if named else str(Path(source).absolute()),
            type=MountType.VOLUME if named else MountType.BIND,
            read_only="ro" in options,
            options=tuple(flag for flag in options if flag not in ("ro", "rw")),
        )


class Tmpfs(click.ParamType):
    """DST[:OPTION,...]: memory."""

    name = "dst[:size=64m]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Mount:
        from orlop.values import Mount, MountType

        target, _, flags = value.partition(":")
        if not target.startswith("/"):
            self.fail(f"the path inside, {target!r}, is not absolute", param, ctx)
        options = [flag for flag in flags.split(",") if flag]
        for option in options:
            key, _, argument = option.partition("=")
            if option not in MOUNT_FLAGS and not (key in TMPFS_VALUES and argument):
                say = f"size={option}" if SIZE.fullmatch(option) else "size=64m or mode=1777, for example"
                self.fail(f"{option!r} is no option of a tmpfs: write {say}", param, ctx)
        return Mount(
            target=target,
            type=MountType.TMPFS,
            read_only="ro" in options,
            options=tuple(flag for flag in options if flag not in ("ro", "rw")),
        )


class Copy(click.ParamType):
    """SRC:DST: a file or directory to put into the container; into DST when that ends with a slash."""

    name = "src:dst"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[Path, str]:
        source, _, target = value.rpartition(":")
        if not source or not target.startswith("/"):
            self.fail(f"{value!r} is not SRC:DST with an absolute path inside", param, ctx)
        path = Path(source)
        if not path.exists():
            self.fail(f"{source}: no such file or directory", param, ctx)
        return path, target + path.resolve().name if target.endswith("/") else target
