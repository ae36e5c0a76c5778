"""The engine's values: what a container shall be, how it is, and how it was asked for."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from orlopd.core.healthcheck import Healthcheck
from orlopd.core.oci import (
    Namespaces,
    Network,
    Resources,
    Security,
    SpecDevice,
    SpecHook,
    SpecMount,
    SpecRlimit,
    UserNamespace,
)
from orlopd.plugin.runtime import Exit
from orlopd.plugin.values import NO_LABELS, Labels, Platform


class SourceKind(enum.Enum):
    """Where a root filesystem comes from."""

    IMAGE = "image"
    ROOTFS = "rootfs"
    BUNDLE = "bundle"
    SCRATCH = "scratch"


@dataclass(frozen=True, slots=True)
class Source:
    """An image by ``value`` its name, a root directory or a bundle by its path, or nothing at all."""

    kind: SourceKind
    value: str = ""


@dataclass(frozen=True, slots=True)
class ContainerSpec:
    """What a container shall be; ``orlop.engine.v1.ContainerSpec`` says what each field means."""

    source: Source
    name: str = ""
    args: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] | None = None
    env: tuple[str, ...] = ()
    working_dir: str = ""
    user: str = ""
    hostname: str = ""
    terminal: bool = False
    stdin: bool = False
    labels: Labels = field(default_factory=lambda: NO_LABELS)
    mounts: tuple[SpecMount, ...] = ()
    network: Network = Network.NONE
    resources: Resources = Resources()  # noqa: RUF009 - a frozen value
    read_only: bool = False
    cap_add: tuple[str, ...] = ()
    cap_drop: tuple[str, ...] = ()
    snapshotter: str = ""
    runtime: str = ""
    auto_remove: bool = False
    stop_signal: str = ""
    platform: Platform | None = None
    restart: str = ""
    user_namespace: UserNamespace = UserNamespace()  # noqa: RUF009 - a frozen value
    devices: tuple[SpecDevice, ...] = ()
    healthcheck: Healthcheck | None = None
    rlimits: tuple[SpecRlimit, ...] = ()
    sysctls: Mapping[str, str] = field(default_factory=lambda: NO_LABELS)
    annotations: Mapping[str, str] = field(default_factory=lambda: NO_LABELS)
    security: Security = Security()  # noqa: RUF009 - a frozen value
    group_add: tuple[str, ...] = ()
    shm_bytes: int = 0
    namespaces: Namespaces = Namespaces()  # noqa: RUF009 - a frozen value
    oom_score_adj: int | None = None
    hooks: tuple[SpecHook, ...] = ()


class HealthStatus(enum.Enum):
    """Whether what runs in a container works, as its checks say."""

    STARTING = "starting"
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"


@dataclass(frozen=True, slots=True)
class HealthResult:
    """One check; ``code`` is -1 where the program could not be run or took too long."""

    started_at: datetime
    ended_at: datetime
    code: int
    output: str = ""


@dataclass(frozen=True, slots=True)
class Health:
    """What checks said since a container's start; ``log`` has the last of them, oldest first."""

    status: HealthStatus = HealthStatus.STARTING
    failing_streak: int = 0
    log: tuple[HealthResult, ...] = ()


class State(enum.Enum):
    """How a container is. UNKNOWN: its shim does not answer."""

    CREATED = "created"
    RUNNING = "running"
    PAUSED = "paused"
    STOPPED = "stopped"
    UNKNOWN = "unknown"

    @property
    def alive(self) -> bool:
        """Whether its main process may be there."""
        return self in (State.RUNNING, State.PAUSED, State.UNKNOWN)


@dataclass(frozen=True, slots=True)
class View:
    """A container as it is. ``spec`` is None for one that another API made."""

    id: str
    name: str
    state: State
    runtime: str
    created_at: datetime
    image: str = ""
    pid: int = 0
    exit: Exit | None = None
    args: tuple[str, ...] = ()
    started_at: datetime | None = None
    labels: Labels = field(default_factory=lambda: NO_LABELS)
    snapshotter: str = ""
    terminal: bool = False
    auto_remove: bool = False
    restart: str = ""
    restarts: int = 0
    health: Health | None = None
    spec: ContainerSpec | None = None


class PullPolicy(enum.Enum):
    """When to pull an image."""

    MISSING = "missing"
    ALWAYS = "always"
    NEVER = "never"


class OnCancel(enum.Enum):
    """What cancelling a call does to the process it started."""

    DETACH = "detach"
    KILL = "kill"


@dataclass(frozen=True, slots=True)
class Window:
    """A terminal's size in cells."""

    width: int
    height: int


@dataclass(frozen=True, slots=True)
class ExecOptions:
    """One more process in a container; what is empty is as in the container."""

    args: tuple[str, ...]
    env: tuple[str, ...] = ()
    working_dir: str = ""
    user: str = ""
    terminal: bool = False
    stdin: bool = False
    window: Window | None = None


@dataclass(frozen=True, slots=True)
class Started:
    """A process runs. ``exec_id`` is "" for a container's main process."""

    pid: int
    exec_id: str = ""


@dataclass(frozen=True, slots=True)
class Life:
    """What outlives a container's task: when it was last started, and how it ended."""

    started_at: datetime | None = None
    exit: Exit | None = None


NO_LIFE = Life()
