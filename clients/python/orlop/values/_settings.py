"""What a container shall be, part by part: mounts, limits, users, devices, health and security."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from ._kinds import HealthStatus, HookStage, MountType, NamespaceMode


@dataclass(frozen=True, slots=True)
class Mount:
    """One mount of a container. ``target`` is an absolute path inside; ``source`` is one of the machine, or a
    volume's name."""

    target: str
    source: str = ""
    type: MountType = MountType.BIND
    read_only: bool = False
    options: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Volume:
    """A named volume: where it is on the daemon's machine, and the names of the containers that have it."""

    name: str
    path: str
    containers: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Hook:
    """A program of the daemon's machine that the runtime runs at a point of a container's life.

    ``args`` begins with the program's own name; ``env`` is all of its environment; ``timeout`` is in
    seconds, 0 for none.
    """

    stage: HookStage
    path: str
    args: Sequence[str] = ()
    env: Sequence[str] = ()
    timeout: int = 0


@dataclass(frozen=True, slots=True)
class BlockLimit:
    """Limits of one block device by its node's path; bytes and operations are a second, 0 is no limit."""

    path: str
    weight: int = 0
    read_bytes: int = 0
    write_bytes: int = 0
    read_operations: int = 0
    write_operations: int = 0


@dataclass(frozen=True, slots=True)
class Resources:
    """Limits; 0 is no limit. A processor and a half is 1_500_000_000 ``nano_cpus``.

    ``cpu_quota`` and ``cpu_period`` are microseconds; ``memory_swap_bytes`` is memory and swap together,
    -1 for no limit.
    """

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
    block_limits: Sequence[BlockLimit] = ()
    huge_pages: Mapping[str, int] = field(default_factory=dict)
    unified: Mapping[str, str] = field(default_factory=dict)
    device_rules: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class IdRange:
    """``size`` ids from ``inside`` on are those from ``outside`` on for the daemon's machine."""

    inside: int
    outside: int
    size: int


@dataclass(frozen=True, slots=True)
class UserNamespace:
    """Ids of a container's own: by ranges, or by ``remap``, a user whose ranges /etc/subuid gives."""

    uids: Sequence[IdRange] = ()
    gids: Sequence[IdRange] = ()
    remap: str = ""


@dataclass(frozen=True, slots=True)
class Device:
    """A device: a node's (or a folder's) ``path``, or the qualified name ``cdi``, "vendor.com/class=name"."""

    path: str = ""
    cdi: str = ""
    target: str = ""
    permissions: str = ""


@dataclass(frozen=True, slots=True)
class Healthcheck:
    """A check of whether a container works; times in seconds, 0 for the image's or the daemon's.

    ``test`` is "CMD" and a command, "CMD-SHELL" and a line for a shell, or "NONE".
    """

    test: Sequence[str] = ()
    interval: float = 0
    timeout: float = 0
    start_period: float = 0
    start_interval: float = 0
    retries: int = 0


@dataclass(frozen=True, slots=True)
class HealthResult:
    """One check; ``exit_code`` is -1 where the program could not be run or took too long."""

    started_at: datetime | None
    ended_at: datetime | None
    exit_code: int
    output: str = ""


@dataclass(frozen=True, slots=True)
class Health:
    """What checks said since a container's start; ``log`` has the last of them, oldest first."""

    status: HealthStatus
    failing_streak: int = 0
    log: tuple[HealthResult, ...] = ()


@dataclass(frozen=True, slots=True)
class Rlimit:
    """A limit of getrlimit(2) by its name, "nofile"; -1 is no limit."""

    name: str
    soft: int
    hard: int


@dataclass(frozen=True, slots=True)
class Security:
    """What keeps a container from what is not its own.

    ``seccomp`` is "" for the daemon's filter, "unconfined" or a profile as JSON, ``apparmor`` a profile's
    name.
    """

    no_new_privileges: bool = False
    seccomp: str = ""
    apparmor: str = ""
    unmask: bool = False
    privileged: bool = False


@dataclass(frozen=True, slots=True)
class Namespaces:
    """Whose namespaces, of kinds that have no field of their own."""

    pid: NamespaceMode = NamespaceMode.UNSPECIFIED
    ipc: NamespaceMode = NamespaceMode.UNSPECIFIED
    uts: NamespaceMode = NamespaceMode.UNSPECIFIED
    cgroup: NamespaceMode = NamespaceMode.UNSPECIFIED


@dataclass(frozen=True, slots=True)
class SpecChange:
    """What a plugin changed in a runtime spec: "add", "remove" or "replace" at a JSON pointer."""

    plugin: str
    path: str
    operation: str
