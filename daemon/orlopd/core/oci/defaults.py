"""What every container gets: mounts, devices, and the parts of /proc and /sys it does not."""

from __future__ import annotations

import resource

from .types import DeviceRule, MountEntry, Rlimit

MASKED_PATHS = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
)
READONLY_PATHS = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")

_HARDENED = ["nosuid", "noexec", "nodev"]
_ACCESS = "rwm"


def _mount(destination: str, type: str, source: str, *options: str) -> MountEntry:
    return MountEntry(destination=destination, type=type, source=source, options=list(options))


def default_mounts(*, shm_bytes: int = 0) -> list[MountEntry]:
    """The filesystems of the kernel's own that a program expects.

    :param shm_bytes: how much /dev/shm may hold; 64 MiB when 0
    """
    shm = f"size={shm_bytes}" if shm_bytes else "size=65536k"
    return [
        _mount("/proc", "proc", "proc", *_HARDENED),
        _mount("/dev", "tmpfs", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
        _mount(
            "/dev/pts",
            "devpts",
            "devpts",
            "nosuid",
            "noexec",
            "newinstance",
            "ptmxmode=0666",
            "mode=0620",
            "gid=5",
        ),
        _mount("/dev/shm", "tmpfs", "shm", *_HARDENED, "mode=1777", shm),
        _mount("/dev/mqueue", "mqueue", "mqueue", *_HARDENED),
        _mount("/sys", "sysfs", "sysfs", *_HARDENED, "ro"),
        _mount("/sys/fs/cgroup", "cgroup", "cgroup", *_HARDENED, "relatime", "ro"),
    ]


def device_rules() -> list[DeviceRule]:
    """Nothing but memory devices, terminals, and making (not opening) nodes."""

    def allow(major: int, minor: int) -> DeviceRule:
        return DeviceRule(allow=True, type="c", major=major, minor=minor, access=_ACCESS)

    return [
        DeviceRule(allow=False, access=_ACCESS),
        DeviceRule(allow=True, type="c", access="m"),
        DeviceRule(allow=True, type="b", access="m"),
        allow(1, 3),  # null
        allow(1, 5),  # zero
        allow(1, 7),  # full
        allow(1, 8),  # random
        allow(1, 9),  # urandom
        allow(5, 0),  # tty
        allow(5, 2),  # ptmx
        DeviceRule(allow=True, type="c", major=136, access=_ACCESS),  # pts/*
    ]


def default_rlimits() -> list[Rlimit]:
    """Open files: the soft limit that select(2) can serve, the hard one as far as this daemon may give."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    hard = 524288 if hard == resource.RLIM_INFINITY else min(hard, 524288)
    return [Rlimit(type="RLIMIT_NOFILE", soft=min(1024, hard), hard=hard)]
