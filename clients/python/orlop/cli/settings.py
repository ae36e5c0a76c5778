"""The options that say more of what a container shall be: whose ids, devices, checks and limits it has."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from orlop.cli.base import Failure, usage
from orlop.cli.types import Bytes, Pair

if TYPE_CHECKING:
    from orlop.values import (
        BlockLimit,
        Device,
        Healthcheck,
        IdRange,
        Namespaces,
        Rlimit,
        Security,
        UserNamespace,
    )

DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)?")
UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600}


class Seconds(click.ParamType):
    """A time: 1.5s, 300ms, 2m, 1h; without a unit, seconds."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        whole, rest = 0.0, value.strip()
        if not rest:
            self.fail("a time is missing: write 30s or 2m", param, ctx)
        while rest:
            match = DURATION.match(rest)
            if not match or (not match[2] and match.end() != len(rest)):
                self.fail(f"{value!r} is no time: write 30s, 500ms or 1m30s", param, ctx)
            whole += float(match[1]) * UNITS[match[2] or "s"]
            rest = rest[match.end() :]
        return whole


class Ids(click.ParamType):
    """INSIDE:OUTSIDE[:SIZE]: a range of ids."""

    name = "inside:outside:size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> IdRange:
        from orlop.values import IdRange

        parts = value.split(":")
        if len(parts) not in (2, 3) or not all(part.isdecimal() and int(part) < 2**32 for part in parts):
            self.fail(f"{value!r} is not INSIDE:OUTSIDE:SIZE, as 0:100000:65536", param, ctx)
        return IdRange(int(parts[0]), int(parts[1]), int(parts[2]) if len(parts) == 3 else 1)


class DeviceType(click.ParamType):
    """PATH[:TARGET][:rwm] or VENDOR/CLASS=NAME."""

    name = "device"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Device:
        from orlop.values import Device

        if not value.startswith("/"):
            if "=" not in value:
                self.fail(
                    f"{value!r} is no device: write /dev/fuse[:/dev/x][:rwm], or vendor.com/class=name",
                    param,
                    ctx,
                )
            return Device(cdi=value)
        path, *rest = value.split(":")
        permissions = rest.pop() if rest and not rest[-1].startswith("/") else ""
        if len(rest) > 1 or set(permissions) - set("rwm"):
            self.fail(f"{value!r} is not PATH[:TARGET][:rwm]", param, ctx)
        return Device(path=path, target=rest[0] if rest else "", permissions=permissions)


class Ulimit(click.ParamType):
    """NAME=SOFT[:HARD]."""

    name = "name=soft[:hard]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Rlimit:
        from orlop.values import Rlimit

        name, _, numbers = value.partition("=")
        soft, _, hard = numbers.partition(":")
        try:
            first = int(soft)
            return Rlimit(name, first, int(hard) if hard else first)
        except ValueError:
            self.fail(f"{value!r} is not NAME=SOFT[:HARD], as nofile=1024:4096", param, ctx)


class Rate(click.ParamType):
    """PATH:NUMBER, of bytes (with ``sized``) or of operations."""

    name = "device:rate"

    def __init__(self, *, sized: bool = False) -> None:
        self.sized = sized

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, int]:
        path, _, number = value.rpartition(":")
        if not path:
            self.fail(f"{value!r} is not DEVICE:RATE, as /dev/sda:10m", param, ctx)
        if self.sized:
            return path, Bytes().convert(number, param, ctx)
        if not number.isdecimal():
            self.fail(f"{number!r} is no number", param, ctx)
        return path, int(number)


BLOCK = (
    ("--blkio-weight-device", "block_weights", "weight", False, "The share of one block device, 10 to 1000."),
    ("--device-read-bps", "read_bps", "read_bytes", True, "Bytes a second to read from a block device."),
    ("--device-write-bps", "write_bps", "write_bytes", True, "Bytes a second to write to a block device."),
    ("--device-read-iops", "read_iops", "read_operations", False, "Reads a second from a block device."),
    ("--device-write-iops", "write_iops", "write_operations", False, "Writes a second to a block device."),
)
MODES = click.Choice(["host", "private"])
OPTIONS = (
    click.option("--userns-remap", default="", metavar="USER[:GROUP]",
                 help="Map ids to those that /etc/subuid and /etc/subgid give this user."),
    click.option("--uidmap", "uid_maps", type=Ids(), multiple=True, help="Map user ids (and group ids)."),
    click.option("--gidmap", "gid_maps", type=Ids(), multiple=True, help="Map group ids otherwise."),
    click.option("--device", "devices", type=DeviceType(), multiple=True, metavar="PATH[:TARGET][:rwm]|NAME",
                 help="Give it a device node, or a CDI device as vendor.com/class=name."),
    click.option("--device-cgroup-rule", "device_rules", multiple=True, metavar="RULE",
                 help="Allow devices, as 'c 10:200 rwm'."),
    click.option("--health-cmd", default="", metavar="COMMAND", help="Check with this whether it works."),
    click.option("--health-interval", type=Seconds(), default=0.0, help="The time between checks; 30s."),
    click.option("--health-timeout", type=Seconds(), default=0.0, help="How long one may take; 30s."),
    click.option("--health-retries", type=click.IntRange(min=0), default=0,
                 help="How many failures in a row are too many; 3."),
    click.option("--health-start-period", type=Seconds(), default=0.0,
                 help="The time in which failures do not count; 0s."),
    click.option("--health-start-interval", type=Seconds(), default=0.0,
                 help="The time between checks meanwhile; 5s."),
    click.option("--no-healthcheck", is_flag=True, help="No check, whatever the image says."),
    click.option("--ulimit", "rlimits", type=Ulimit(), multiple=True, help="Set a limit of its processes."),
    click.option("--sysctl", "sysctls", type=Pair(needs_value=True), multiple=True,
                 help="Set a kernel setting."),
    click.option("--annotation", "annotations", type=Pair(), multiple=True, help="Set an annotation."),
    click.option("--security-opt", "security", multiple=True, metavar="OPTION",
                 help="no-new-privileges, seccomp=unconfined|FILE, apparmor=NAME, systempaths=unconfined."),
    click.option("--privileged", is_flag=True, help="All rights and devices; nothing is filtered."),
    click.option("--group-add", "group_add", multiple=True, metavar="GROUP", help="Add a group to its user."),
    click.option("--shm-size", type=Bytes(), default=0, help="How much /dev/shm holds; 64m."),
    click.option("--pid", "pid_mode", type=MODES, help="Whose processes it sees."),
    click.option("--ipc", "ipc_mode", type=MODES, help="Whose IPC it has."),
    click.option("--uts", "uts_mode", type=MODES, help="Whose host name it has."),
    click.option("--cgroupns", "cgroup_mode", type=MODES, help="Whose control groups it sees."),
    click.option("--oom-score-adj", type=click.IntRange(-1000, 1000),
                 help="Its badness when memory runs out."),
    click.option("--memory-swap", default="", metavar="SIZE",
                 help="Memory and swap together; -1 for no limit."),
    click.option("--memory-reservation", type=Bytes(), default=0, help="Memory kept when it runs short."),
    click.option("-c", "--cpu-shares", type=click.IntRange(min=0), default=0,
                 help="Its share; 1024 is usual."),
    click.option("--cpu-quota", type=int, default=0, help="Microseconds of processor time a period."),
    click.option("--cpu-period", type=click.IntRange(min=0), default=0, help="Microseconds of a period."),
    click.option("--cpuset-cpus", default="", metavar="SET", help="The processors it may use: 0-3,6."),
    click.option("--cpuset-mems", default="", metavar="SET", help="The memory nodes it may use."),
    click.option("--blkio-weight", type=click.IntRange(min=0), default=0, help="Its share of block devices."),
    *(click.option(flag, name, type=Rate(sized=sized), multiple=True, help=text)
      for flag, name, _, sized, text in BLOCK),
    click.option("--hugetlb", "huge_pages", type=Pair(needs_value=True), multiple=True, metavar="PAGE=SIZE",
                 help="A limit of huge pages: 2MB=64m."),
    click.option("--cgroup-conf", "unified", type=Pair(needs_value=True), multiple=True,
                 help="Write to a file of control groups version 2: memory.high=64m."),
)  # fmt: skip


def settings(o: dict[str, Any]) -> dict[str, Any]:
    """What those options ask for, as arguments of a ContainerSpec, its resources apart.

    :raises Failure: they contradict each other
    """
    return {
        "user_namespace": user_namespace(o),
        "devices": o["devices"],
        "healthcheck": healthcheck(o),
        "rlimits": o["rlimits"],
        "sysctls": dict(o["sysctls"]),
        "annotations": dict(o["annotations"]),
        "security": security(o["security"], privileged=o["privileged"]),
        "group_add": o["group_add"],
        "shm_bytes": o["shm_size"],
        "namespaces": namespaces(o),
        "oom_score_adj": o["oom_score_adj"],
    }


def limits(o: dict[str, Any]) -> dict[str, Any]:
    """What those options ask for, as arguments of a Resources."""
    bytes_ = Bytes()
    swap = o["memory_swap"]
    return {
        "memory_swap_bytes": -1 if swap == "-1" else bytes_.convert(swap, None, None) if swap else 0,
        "memory_reservation_bytes": o["memory_reservation"],
        "cpu_shares": o["cpu_shares"],
        "cpu_quota": o["cpu_quota"],
        "cpu_period": o["cpu_period"],
        "cpuset_cpus": o["cpuset_cpus"],
        "cpuset_mems": o["cpuset_mems"],
        "block_weight": o["blkio_weight"],
        "block_limits": block_limits(o),
        "huge_pages": {page: bytes_.convert(size, None, None) for page, size in o["huge_pages"]},
        "unified": dict(o["unified"]),
        "device_rules": o["device_rules"],
    }


def user_namespace(o: dict[str, Any]) -> UserNamespace | None:
    """The ids that are mapped, None for none."""
    from orlop.values import UserNamespace

    if o["userns_remap"] and (o["uid_maps"] or o["gid_maps"]):
        raise usage("--userns-remap and --uidmap exclude each other")
    if not (o["userns_remap"] or o["uid_maps"] or o["gid_maps"]):
        return None
    return UserNamespace(o["uid_maps"], o["gid_maps"], o["userns_remap"])


def healthcheck(o: dict[str, Any]) -> Healthcheck | None:
    """The check, None for the image's."""
    from orlop.values import Healthcheck

    times = {name: o[f"health_{name}"] for name in ("interval", "timeout", "start_period", "start_interval")}
    given = o["health_cmd"] or o["health_retries"] or any(times.values())
    if o["no_healthcheck"]:
        if given:
            raise usage("--no-healthcheck and --health-* exclude each other")
        return Healthcheck(("NONE",))
    if not given:
        return None
    test = ("CMD-SHELL", o["health_cmd"]) if o["health_cmd"] else ()
    return Healthcheck(test, **times, retries=o["health_retries"])


def security(options: tuple[str, ...], *, privileged: bool) -> Security:
    """What --security-opt says, in Docker's words."""
    from orlop.values import Security

    said: dict[str, Any] = {"privileged": privileged}
    for option in options:
        key, _, value = (
            option.replace(":", "=", 1).partition("=") if "=" not in option else option.partition("=")
        )
        match key, value:
            case "no-new-privileges", "" | "true" | "false":
                said["no_new_privileges"] = value != "false"
            case "seccomp", _ if value:
                said["seccomp"] = value if value == "unconfined" else profile(value)
            case "apparmor", _ if value:
                said["apparmor"] = value
            case "systempaths", "unconfined":
                said["unmask"] = True
            case _:
                raise usage(
                    f"--security-opt {option!r}: no-new-privileges, seccomp=, apparmor= and "
                    "systempaths=unconfined are known"
                )
    return Security(**said)


def profile(path: str) -> str:
    """A seccomp profile out of a file."""
    try:
        return Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise Failure(f"seccomp profile {path}: {getattr(error, 'strerror', error)}", code=125) from error


def namespaces(o: dict[str, Any]) -> Namespaces:
    """Whose namespaces."""
    from orlop.values import NamespaceMode, Namespaces

    return Namespaces(
        **{
            kind: NamespaceMode(o[f"{kind}_mode"] or "unspecified")
            for kind in ("pid", "ipc", "uts", "cgroup")
        }
    )


def block_limits(o: dict[str, Any]) -> tuple[BlockLimit, ...]:
    """The limits of block devices, those of one device together."""
    from orlop.values import BlockLimit

    found: dict[str, dict[str, int]] = {}
    for _, option, field, _, _ in BLOCK:
        for path, rate in o[option]:
            found.setdefault(path, {})[field] = rate
    return tuple(BlockLimit(path, **fields) for path, fields in found.items())
