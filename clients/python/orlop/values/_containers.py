"""Containers: what they shall be, what they are, and what a session with one tells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from ._images import BlobProgress, Platform, Resolved
from ._kinds import ContainerState, LogStream, Network
from ._settings import (
    Device,
    Health,
    Healthcheck,
    Hook,
    Mount,
    Namespaces,
    Resources,
    Rlimit,
    Security,
    SpecChange,
    UserNamespace,
)


@dataclass(frozen=True, slots=True)
class Shim:
    """The process that looks after a container. ``problem`` says what is wrong with it, if anything is."""

    container: str
    name: str
    runtime: str
    binary: str = ""
    runtime_binary: str = ""
    pid: int = 0
    container_pid: int = 0
    address: str = ""
    protocol: str = ""
    version: str = ""
    memory_bytes: int = 0
    started_at: datetime | None = None
    bundle: str = ""
    log: str = ""
    problem: str = ""


@dataclass(frozen=True, slots=True)
class ContainerSpec:
    """What a container shall be. Exactly one of ``image``, ``rootfs``, ``bundle`` and ``scratch`` is given.

    ``rootfs`` and ``bundle`` are absolute paths on the daemon's machine. ``entrypoint`` replaces the image's;
    an empty one means none. What is left empty is the image's, or the daemon's default.
    """

    image: str = ""
    args: Sequence[str] = ()
    name: str = ""
    rootfs: str = ""
    bundle: str = ""
    scratch: bool = False
    entrypoint: Sequence[str] | None = None
    env: Sequence[str] = ()
    working_dir: str = ""
    user: str = ""
    hostname: str = ""
    terminal: bool = False
    stdin: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)
    mounts: Sequence[Mount] = ()
    network: Network = Network.NONE
    resources: Resources = field(default_factory=Resources)
    read_only: bool = False
    cap_add: Sequence[str] = ()
    cap_drop: Sequence[str] = ()
    snapshotter: str = ""
    runtime: str = ""
    auto_remove: bool = False
    stop_signal: str = ""
    platform: Platform | None = None
    restart: str = ""
    user_namespace: UserNamespace | None = None
    devices: Sequence[Device] = ()
    healthcheck: Healthcheck | None = None
    rlimits: Sequence[Rlimit] = ()
    sysctls: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    security: Security = field(default_factory=Security)
    group_add: Sequence[str] = ()
    shm_bytes: int = 0
    namespaces: Namespaces = field(default_factory=Namespaces)
    oom_score_adj: int | None = None
    hooks: Sequence[Hook] = ()


@dataclass(frozen=True, slots=True)
class WindowSize:
    """The size of a terminal, in character cells."""

    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Exit:
    """How a process ended: ``code`` is 128 plus the number of the signal that ended it, if one did."""

    code: int
    at: datetime | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Container:
    """A container as it is. ``spec`` is None for one that was made through another API."""

    id: str
    name: str
    image: str = ""
    state: ContainerState = ContainerState.UNSPECIFIED
    pid: int = 0
    exit: Exit | None = None
    args: tuple[str, ...] = ()
    created_at: datetime | None = None
    started_at: datetime | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    snapshotter: str = ""
    runtime: str = ""
    terminal: bool = False
    auto_remove: bool = False
    spec: ContainerSpec | None = None
    restart: str = ""
    restarts: int = 0
    health: Health | None = None


@dataclass(frozen=True, slots=True)
class ContainerDetails:
    """A container and its OCI runtime spec, as JSON, with what plugins changed in it."""

    container: Container
    oci_spec: str
    spec_changes: tuple[SpecChange, ...] = ()


@dataclass(frozen=True, slots=True)
class Created:
    """A container was made."""

    id: str
    name: str


@dataclass(frozen=True, slots=True)
class Started:
    """A process runs, or one that ran already is connected to; ``pid`` is 0 then."""

    pid: int = 0
    exec_id: str = ""
    terminal: bool | None = None


@dataclass(frozen=True, slots=True)
class Output:
    """Bytes that a process wrote. With a terminal, all of it is standard output."""

    data: bytes
    stream: LogStream = LogStream.STDOUT


@dataclass(frozen=True, slots=True)
class Detached:
    """The process runs on without this client."""


SessionEvent = Resolved | BlobProgress | Created | Started | Output | Exit | Detached
"""What a session tells, in the order in which it happened."""


@dataclass(frozen=True, slots=True)
class LogLine:
    """One piece of a log, at most a line, with its line end if it had one."""

    data: bytes
    stream: LogStream
    at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Process:
    """A process of a container: ``pid`` and ``uid`` are the machine's, ``inner_pid`` is the container's.

    ``state`` is the kernel's letter, ``args`` may be empty and is cut after 4096 bytes.
    """

    pid: int
    parent_pid: int
    inner_pid: int
    exec_id: str
    uid: int
    state: str
    cpu_nanos: int
    memory_bytes: int
    started_at: datetime | None
    name: str
    args: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Stats:
    """What a container uses: processor time and block input and output so far, the rest at ``at``."""

    at: datetime | None
    cpu_nanos: int
    memory_bytes: int
    memory_limit: int
    pids: int
    io_read_bytes: int
    io_write_bytes: int
