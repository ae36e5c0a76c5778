"""What a container uses, as containerd's messages for control groups have it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from google.protobuf.any_pb2 import Any as AnyMessage

from orlop_protos.io.containerd.cgroups.v1 import cgroup1_pb2 as v1
from orlop_protos.io.containerd.cgroups.v2 import cgroup2_pb2 as v2

from .cgroups import Cgroup, read_number, read_pairs, read_text

_NS_PER_TICK = 10_000_000
_BLKIO: tuple[tuple[str, str, str], ...] = (
    (
        "io_service_bytes_recursive",
        "blkio.io_service_bytes_recursive",
        "blkio.throttle.io_service_bytes_recursive",
    ),
    ("io_serviced_recursive", "blkio.io_serviced_recursive", "blkio.throttle.io_serviced_recursive"),
    ("io_queued_recursive", "blkio.io_queued_recursive", ""),
    ("io_service_time_recursive", "blkio.io_service_time_recursive", ""),
    ("io_wait_time_recursive", "blkio.io_wait_time_recursive", ""),
    ("io_merged_recursive", "blkio.io_merged_recursive", ""),
    ("io_time_recursive", "blkio.time_recursive", ""),
    ("sectors_recursive", "blkio.sectors_recursive", ""),
)


def measure(cgroup: Cgroup) -> AnyMessage:
    """The metrics of a group, version 1 or 2 as it is. Reads files: call it in a thread."""
    message = _version_1(cgroup) if cgroup.version == 1 else _version_2(cgroup.paths[""])
    return AnyMessage(type_url=message.DESCRIPTOR.full_name, value=message.SerializeToString())


def _version_1(cgroup: Cgroup) -> v1.Metrics:
    metrics = v1.Metrics()
    if (pids := cgroup.path("pids")) is not None:
        metrics.pids.current = read_number(pids / "pids.current")
        limit = read_text(pids / "pids.max").strip()
        metrics.pids.limit = 0 if limit == "max" else int(limit or 0)
    if (cpu := cgroup.path("cpu")) is not None:
        throttled = read_pairs(cpu / "cpu.stat")
        metrics.cpu.throttling.periods = throttled.get("nr_periods", 0)
        metrics.cpu.throttling.throttled_periods = throttled.get("nr_throttled", 0)
        metrics.cpu.throttling.throttled_time = throttled.get("throttled_time", 0)
    if (account := cgroup.path("cpuacct")) is not None:
        _cpu_1(metrics.cpu.usage, account)
    if (memory := cgroup.path("memory")) is not None:
        _memory_1(metrics, memory)
    if (blkio := cgroup.path("blkio")) is not None:
        _blkio_1(metrics.blkio, blkio)
    if (hugetlb := cgroup.path("hugetlb")) is not None:
        for size in _sizes(hugetlb, ".limit_in_bytes"):
            metrics.hugetlb.add(
                usage=read_number(hugetlb / f"hugetlb.{size}.usage_in_bytes"),
                max=read_number(hugetlb / f"hugetlb.{size}.max_usage_in_bytes"),
                failcnt=read_number(hugetlb / f"hugetlb.{size}.failcnt"),
                pagesize=size,
            )
    return metrics


def _cpu_1(usage: v1.CPUUsage, folder: Path) -> None:
    usage.total = read_number(folder / "cpuacct.usage")
    usage.per_cpu.extend(int(value) for value in read_text(folder / "cpuacct.usage_percpu").split())
    ticks = read_pairs(folder / "cpuacct.stat")
    usage.user = ticks.get("user", 0) * _NS_PER_TICK
    usage.kernel = ticks.get("system", 0) * _NS_PER_TICK


_SAME_1 = (
    *("cache", "rss", "rss_huge", "mapped_file", "dirty", "writeback", "unevictable"),
    *("inactive_anon", "active_anon", "inactive_file", "active_file"),
)
_MEMORY_1 = {name: name for name in (*_SAME_1, *(f"total_{name}" for name in _SAME_1))} | {
    "pgpgin": "pg_pg_in",
    "pgpgout": "pg_pg_out",
    "pgfault": "pg_fault",
    "pgmajfault": "pg_maj_fault",
    "total_pgpgin": "total_pg_pg_in",
    "total_pgpgout": "total_pg_pg_out",
    "total_pgfault": "total_pg_fault",
    "total_pgmajfault": "total_pg_maj_fault",
    "hierarchical_memory_limit": "hierarchical_memory_limit",
    "hierarchical_memsw_limit": "hierarchical_swap_limit",
}


def _memory_1(metrics: v1.Metrics, folder: Path) -> None:
    _copy(read_pairs(folder / "memory.stat"), _MEMORY_1, metrics.memory)
    for field, module in (
        ("usage", ""),
        ("swap", "memsw."),
        ("kernel", "kmem."),
        ("kernel_tcp", "kmem.tcp."),
    ):
        if not (folder / f"memory.{module}usage_in_bytes").exists():
            continue
        entry = getattr(metrics.memory, field)
        entry.SetInParent()
        entry.usage = read_number(folder / f"memory.{module}usage_in_bytes")
        entry.max = read_number(folder / f"memory.{module}max_usage_in_bytes")
        entry.failcnt = read_number(folder / f"memory.{module}failcnt")
        entry.limit = read_number(folder / f"memory.{module}limit_in_bytes")
    control = read_pairs(folder / "memory.oom_control")
    metrics.memory_oom_control.SetInParent()
    _copy(
        control,
        {name: name for name in ("oom_kill_disable", "under_oom", "oom_kill")},
        metrics.memory_oom_control,
    )


def _blkio_1(stat: v1.BlkIOStat, folder: Path) -> None:
    for field, name, throttled in _BLKIO:
        lines = read_text(folder / name).splitlines()
        if throttled and len(lines) <= 1:
            lines = read_text(folder / throttled).splitlines()
        entries = getattr(stat, field)
        for line in lines:
            words = line.split()
            if len(words) < 2 or ":" not in words[0]:
                continue
            major, _, minor = words[0].partition(":")
            op = words[1] if len(words) > 2 else ""
            entries.add(
                op=op, major=int(major), minor=int(minor), value=int(words[-1]), device=_device(words[0])
            )


def _device(number: str) -> str:
    for line in read_text(Path("/sys/dev/block") / number / "uevent").splitlines():
        if line.startswith("DEVNAME="):
            return "/dev/" + line.removeprefix("DEVNAME=")
    return ""


def _version_2(folder: Path) -> v2.Metrics:
    metrics = v2.Metrics()
    metrics.pids.current = read_number(folder / "pids.current")
    metrics.pids.limit = read_number(folder / "pids.max")
    cpu = read_pairs(folder / "cpu.stat")
    _copy(cpu, {name: name for name in _fields(metrics.cpu)}, metrics.cpu)
    _psi(folder / "cpu.pressure", metrics.cpu)
    _memory_2(metrics, folder)
    for line in read_text(folder / "io.stat").splitlines():
        device, *pairs = line.split()
        major, _, minor = device.partition(":")
        values = dict(pair.split("=", 1) for pair in pairs if "=" in pair)
        metrics.io.usage.add(
            major=int(major),
            minor=int(minor),
            **{name: int(values.get(name, 0)) for name in ("rbytes", "wbytes", "rios", "wios")},
        )
    _psi(folder / "io.pressure", metrics.io)
    for size in _sizes(folder, ".max"):
        metrics.hugetlb.add(
            current=read_number(folder / f"hugetlb.{size}.current"),
            max=read_number(folder / f"hugetlb.{size}.max"),
            pagesize=size,
            failcnt=read_pairs(folder / f"hugetlb.{size}.events").get("max", 0),
        )
    events = read_pairs(folder / "memory.events")
    metrics.memory_events.SetInParent()
    _copy(events, {name: name for name in _fields(metrics.memory_events)}, metrics.memory_events)
    return metrics


def _memory_2(metrics: v2.Metrics, folder: Path) -> None:
    memory = metrics.memory
    _copy(read_pairs(folder / "memory.stat"), {name: name for name in _fields(memory)}, memory)
    stat = read_pairs(folder / "memory.stat")
    # Newer kernels count refaults for anonymous memory and files apart.
    memory.workingset_refault = stat.get(
        "workingset_refault", stat.get("workingset_refault_anon", 0) + stat.get("workingset_refault_file", 0)
    )
    memory.workingset_activate = stat.get(
        "workingset_activate",
        stat.get("workingset_activate_anon", 0) + stat.get("workingset_activate_file", 0),
    )
    for field, name in (
        ("usage", "memory.current"),
        ("usage_limit", "memory.max"),
        ("max_usage", "memory.peak"),
        ("swap_usage", "memory.swap.current"),
        ("swap_limit", "memory.swap.max"),
        ("swap_max_usage", "memory.swap.peak"),
    ):
        setattr(memory, field, read_number(folder / name))
    _psi(folder / "memory.pressure", memory)


def _psi(path: Path, message: Any) -> None:
    for line in read_text(path).splitlines():
        kind, *pairs = line.split()
        if kind not in ("some", "full"):
            continue
        values = dict(pair.split("=", 1) for pair in pairs)
        data = getattr(message.psi, kind)
        data.SetInParent()
        data.avg10, data.avg60 = float(values.get("avg10", 0)), float(values.get("avg60", 0))
        data.avg300, data.total = float(values.get("avg300", 0)), int(values.get("total", 0))


def _sizes(folder: Path, suffix: str) -> Iterable[str]:
    for path in sorted(folder.glob(f"hugetlb.*{suffix}")):
        size = path.name.removeprefix("hugetlb.").removesuffix(suffix)
        if "." not in size:
            yield size


def _fields(message: Any) -> list[str]:
    return [field.name for field in message.DESCRIPTOR.fields if field.message_type is None]


def _copy(values: dict[str, int], names: dict[str, str], message: Any) -> None:
    for name, field in names.items():
        if name in values:
            setattr(message, field, values[name])
