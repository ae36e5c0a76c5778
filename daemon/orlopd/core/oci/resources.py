"""Limits: what a request says of them as the ``linux.resources`` of an OCI runtime spec."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping, Set
from dataclasses import dataclass, field

from orlopd.plugin.errors import InvalidArgument, NotFound

from .defaults import device_rules
from .machine import Machine, numbers_of, text_of
from .types import (
    BlockIo,
    Cpu,
    DeviceRule,
    HugePageLimit,
    LinuxResources,
    Memory,
    Pids,
    ThrottleDevice,
    WeightDevice,
)

CPU_PERIOD = 100_000  # microseconds, the kernel's own default
_SHORTEST_QUOTA = 1_000  # microseconds: the kernel takes no less
_LEAST_MEMORY = 6 << 20  # what a runtime needs to start a process at all
_CPUSET = re.compile(r"[0-9]{1,5}(?:-[0-9]{1,5})?(?:,[0-9]{1,5}(?:-[0-9]{1,5})?)*")
_PAGE_SIZE = re.compile(r"[1-9]\d*[KMG]B")
_UNIFIED = re.compile(r"[a-z_]+\.[A-Za-z0-9_.]+")  # hugetlb.2MB.max
_RULE = re.compile(r"([abc]) (\d+|\*):(\d+|\*) ([rwm]{1,3})")


@dataclass(frozen=True, slots=True)
class BlockLimit:
    """Limits of one block device by the path of its node: bytes and operations a second, 0 for none."""

    path: str
    weight: int = 0
    read_bytes: int = 0
    write_bytes: int = 0
    read_operations: int = 0
    write_operations: int = 0


@dataclass(frozen=True, slots=True)
class Resources:
    """Limits; 0 and "" are none. See ``orlop.engine.v1.Resources`` for the meaning of each."""

    memory_bytes: int = 0
    nano_cpus: int = 0
    pids: int = 0
    memory_swap_bytes: int = 0
    memory_reservation_bytes: int = 0
    cpu_shares: int = 0
    cpu_quota: int = 0
    cpu_period: int = 0
    cpuset_cpus: str = ""
    cpuset_mems: str = ""
    block_weight: int = 0
    block_limits: tuple[BlockLimit, ...] = ()
    huge_pages: Mapping[str, int] = field(default_factory=dict[str, int])
    unified: Mapping[str, str] = field(default_factory=dict[str, str])
    device_rules: tuple[str, ...] = ()


def build_resources(wanted: Resources, machine: Machine | None = None) -> LinuxResources:
    """The limits as a runtime takes them. Looks at the nodes of the block devices that are named.

    :param machine: what there is to be limited; this one if None
    :raises InvalidArgument: a limit that makes no sense
    :raises NotFound: a block device is not there
    """
    limits = LinuxResources(devices=[*device_rules(), *map(parse_rule, wanted.device_rules)])
    machine = machine or Machine()
    memory, cpu, block = _memory(wanted), _cpu(wanted, machine), _block(wanted)
    if memory:
        limits["memory"] = memory
    if cpu:
        limits["cpu"] = cpu
    if wanted.pids < 0:
        raise _bad("a limit cannot be negative; 0 is none")
    if wanted.pids:
        limits["pids"] = Pids(limit=wanted.pids)
    if block:
        limits["blockIO"] = block
    if wanted.huge_pages:
        for size in wanted.huge_pages:
            if not _PAGE_SIZE.fullmatch(size):
                raise _bad(f"{size[:40]!r} is no size of huge pages: want 2MB, 1GB or the like")
            if size not in machine.huge_pages:
                there = ", ".join(machine.huge_pages) or "none"
                raise _bad(f"this machine has no huge pages of {size}; available: {there}")
        limits["hugepageLimits"] = [
            HugePageLimit(pageSize=size, limit=limit) for size, limit in sorted(wanted.huge_pages.items())
        ]
    if wanted.unified:
        for key, value in wanted.unified.items():
            if not _UNIFIED.fullmatch(key) or key.startswith("cgroup.") or "\0" in value:
                raise _bad(f"{key[:80]!r} is no file of a controller, as memory.high is")
        limits["unified"] = dict(wanted.unified)
    return limits


def parse_rule(text: str) -> DeviceRule:
    """A rule as Docker and the kernel write it: ``c 10:200 rwm``. :raises InvalidArgument: it is none"""
    match = _RULE.fullmatch(text.strip())
    if match is None:
        raise _bad(f"{text[:80]!r} is no device rule: want c 10:200 rwm, with * for any number")
    rule = DeviceRule(allow=True, access=match[4], type=match[1])
    if match[2] != "*":
        rule["major"] = int(match[2])
    if match[3] != "*":
        rule["minor"] = int(match[3])
    return rule


def _memory(wanted: Resources) -> Memory:
    memory = Memory()
    if min(wanted.memory_bytes, wanted.memory_reservation_bytes) < 0 or wanted.memory_swap_bytes < -1:
        raise _bad("a limit cannot be negative; 0 is none")
    if wanted.memory_bytes:
        if wanted.memory_bytes < _LEAST_MEMORY:
            raise _bad(f"{wanted.memory_bytes} bytes of memory are too few: 6 MiB is the least")
        memory["limit"] = wanted.memory_bytes
    if wanted.memory_reservation_bytes:
        if wanted.memory_bytes and wanted.memory_reservation_bytes > wanted.memory_bytes:
            raise _bad("a reservation of more memory than the limit would have no effect")
        memory["reservation"] = wanted.memory_reservation_bytes
    if wanted.memory_swap_bytes:
        if wanted.memory_swap_bytes > 0 and not wanted.memory_bytes:
            raise _bad("a limit of memory and swap together needs one of memory")
        if 0 < wanted.memory_swap_bytes < wanted.memory_bytes:
            raise _bad("the limit of memory and swap together is below that of memory")
        memory["swap"] = wanted.memory_swap_bytes
    return memory


def _cpu(wanted: Resources, machine: Machine) -> Cpu:
    if min(wanted.nano_cpus, wanted.cpu_shares, wanted.cpu_period) < 0 or wanted.cpu_quota < -1:
        raise _bad("a limit cannot be negative; 0 is none")
    if wanted.nano_cpus and (wanted.cpu_quota or wanted.cpu_period):
        raise _bad("a number of processors and a quota of time contradict each other: give one of them")
    cpu = Cpu()
    if wanted.nano_cpus:
        quota = wanted.nano_cpus * CPU_PERIOD // 1_000_000_000
        there = len(machine.cpus)
        if quota < _SHORTEST_QUOTA or wanted.nano_cpus > there * 1_000_000_000:
            raise _bad(
                f"{wanted.nano_cpus / 1e9:.15g} processors: the range is from 0.01 to {there}, "
                f"for this machine has {there}"
            )
        cpu["quota"], cpu["period"] = quota, CPU_PERIOD
    if wanted.cpu_quota:
        if 0 < wanted.cpu_quota < _SHORTEST_QUOTA:
            raise _bad(f"a quota of less than {_SHORTEST_QUOTA} microseconds is not enough to run")
        cpu["quota"] = wanted.cpu_quota
    if wanted.cpu_period:
        if not 1_000 <= wanted.cpu_period <= 1_000_000:
            raise _bad("a period has 1000 to 1000000 microseconds")
        cpu["period"] = wanted.cpu_period
    if wanted.cpu_shares:
        if not 2 <= wanted.cpu_shares <= 262_144:
            raise _bad("shares of processors are 2 to 262144")
        cpu["shares"] = wanted.cpu_shares
    if wanted.cpuset_cpus:
        cpu["cpus"] = _numbered(wanted.cpuset_cpus, machine.cpus, "processors")
    if wanted.cpuset_mems:
        cpu["mems"] = _numbered(wanted.cpuset_mems, machine.memory_nodes, "memory nodes")
    return cpu


def _numbered(text: str, there: Set[int], what: str) -> str:
    try:
        numbers = numbers_of(text if _CPUSET.fullmatch(text) else "")
    except ValueError:
        raise _bad(f"{text[:80]!r} is no set of {what}: want 0-3,6") from None
    if not numbers <= there:
        raise _bad(f"{what} {text[:80]} are not all available: this machine has {text_of(there)}")
    return text


def _block(wanted: Resources) -> BlockIo:
    block = BlockIo()
    if wanted.block_weight:
        block["weight"] = _weight(wanted.block_weight)
    read_bytes: list[ThrottleDevice] = []
    write_bytes: list[ThrottleDevice] = []
    read_operations: list[ThrottleDevice] = []
    write_operations: list[ThrottleDevice] = []
    for each in wanted.block_limits:
        major, minor = _numbers(each.path)
        if each.weight:
            block.setdefault("weightDevice", []).append(
                WeightDevice(major=major, minor=minor, weight=_weight(each.weight))
            )
        for devices, rate in (
            (read_bytes, each.read_bytes),
            (write_bytes, each.write_bytes),
            (read_operations, each.read_operations),
            (write_operations, each.write_operations),
        ):
            if rate < 0:
                raise _bad("a limit cannot be negative; 0 is none")
            if rate:
                devices.append(ThrottleDevice(major=major, minor=minor, rate=rate))
    if read_bytes:
        block["throttleReadBpsDevice"] = read_bytes
    if write_bytes:
        block["throttleWriteBpsDevice"] = write_bytes
    if read_operations:
        block["throttleReadIOPSDevice"] = read_operations
    if write_operations:
        block["throttleWriteIOPSDevice"] = write_operations
    return block


def _numbers(path: str) -> tuple[int, int]:
    try:
        found = os.stat(path)  # noqa: PTH116
    except (OSError, ValueError) as error:
        raise NotFound(
            f"block device {path[:200]!r} is not there", reason="DEVICE_NOT_FOUND", resource=f"path {path}"
        ) from error
    if not stat.S_ISBLK(found.st_mode):
        raise _bad(f"{path!r} is no block device")
    return os.major(found.st_rdev), os.minor(found.st_rdev)


def _weight(value: int) -> int:
    if not 10 <= value <= 1000:
        raise _bad(f"a weight of {value}: 10 to 1000 are possible")
    return value


def _bad(why: str) -> InvalidArgument:
    return InvalidArgument(why, reason="BAD_LIMIT")
