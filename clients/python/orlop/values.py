"""The values that go into and come out of the SDK: frozen dataclasses, no protobuf.

Times are aware datetimes in UTC, sizes are bytes, digests are "sha256:..." strings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

__all__ = [
    "BlobKind",
    "BlobProgress",
    "BlobState",
    "BlockLimit",
    "Build",
    "CheckProgress",
    "CheckSummary",
    "Container",
    "ContainerDetails",
    "ContainerSpec",
    "ContainerState",
    "Created",
    "Credentials",
    "Detached",
    "Device",
    "DiskUsage",
    "Event",
    "EventsGap",
    "Exit",
    "Explanation",
    "Finding",
    "Health",
    "HealthResult",
    "HealthStatus",
    "Healthcheck",
    "IdRange",
    "Image",
    "ImageConfig",
    "ImageDetails",
    "Info",
    "LogLine",
    "LogStream",
    "Mount",
    "MountType",
    "NamespaceMode",
    "Namespaces",
    "Network",
    "ObjectKind",
    "ObjectUsage",
    "OnCancel",
    "Output",
    "Platform",
    "Plugin",
    "PluginStatus",
    "Pruned",
    "PrunedObject",
    "PullPolicy",
    "PullProgress",
    "PushProgress",
    "Pushed",
    "ReferenceLink",
    "Referrer",
    "Referrers",
    "Removal",
    "Removed",
    "Resolved",
    "Resources",
    "Rlimit",
    "Security",
    "SessionEvent",
    "Shim",
    "SpecChange",
    "Started",
    "Stats",
    "Usage",
    "UserNamespace",
    "Version",
    "WindowSize",
]


class ObjectKind(StrEnum):
    """A kind of object that the daemon keeps."""

    UNSPECIFIED = "unspecified"
    BLOB = "blob"
    SNAPSHOT = "snapshot"
    IMAGE = "image"
    CONTAINER = "container"
    LEASE = "lease"
    INGEST = "ingest"


class BlobKind(StrEnum):
    """The part a blob plays in an image."""

    UNSPECIFIED = "unspecified"
    INDEX = "index"
    MANIFEST = "manifest"
    CONFIG = "config"
    LAYER = "layer"


class BlobState(StrEnum):
    """The states of a blob in a pull and in a push, in their order."""

    UNSPECIFIED = "unspecified"
    WAITING = "waiting"
    FETCHING = "fetching"
    FETCHED = "fetched"
    EXISTS = "exists"
    UNPACKING = "unpacking"
    UNPACKED = "unpacked"
    PUSHING = "pushing"
    PUSHED = "pushed"
    MOUNTED = "mounted"


class ContainerState(StrEnum):
    """How a container is."""

    UNSPECIFIED = "unspecified"
    CREATED = "created"
    RUNNING = "running"
    PAUSED = "paused"
    STOPPED = "stopped"


class PullPolicy(StrEnum):
    """When to pull an image that is to be run."""

    MISSING = "missing"
    ALWAYS = "always"
    NEVER = "never"


class OnCancel(StrEnum):
    """What giving up a stream does to its process."""

    DETACH = "detach"
    KILL = "kill"


class Network(StrEnum):
    """The network a container is in: one of its own with loopback alone, or the machine's."""

    NONE = "none"
    HOST = "host"


class MountType(StrEnum):
    """The kinds of mount."""

    BIND = "bind"
    TMPFS = "tmpfs"


class HealthStatus(StrEnum):
    """Whether what runs in a container works."""

    UNSPECIFIED = "unspecified"
    STARTING = "starting"
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"


class NamespaceMode(StrEnum):
    """Whose namespace of a kind: the container's or the machine's."""

    UNSPECIFIED = "unspecified"
    PRIVATE = "private"
    HOST = "host"


class LogStream(StrEnum):
    """Where a line was written."""

    STDOUT = "stdout"
    STDERR = "stderr"


class PluginStatus(StrEnum):
    """How a plugin is."""

    UNSPECIFIED = "unspecified"
    OK = "ok"
    SKIPPED = "skipped"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Platform:
    """What an image runs on, as Go spells it: "linux", "amd64", "" or a variant as "v8"."""

    os: str
    architecture: str
    variant: str = ""
    os_version: str = ""

    def __str__(self) -> str:
        system = f"{self.os}({self.os_version})" if self.os_version else self.os
        return "/".join(part for part in (system, self.architecture, self.variant) if part)


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who asks a registry; an empty user name goes with an identity token."""

    username: str
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Image:
    """A named image; ``size`` is what its content for this machine takes, compressed."""

    name: str
    digest: str
    size: int = 0
    platforms: tuple[Platform, ...] = ()
    created_at: datetime | None = None
    updated_at: datetime | None = None
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """What an image asks of the containers made from it."""

    entrypoint: Sequence[str] = ()
    cmd: Sequence[str] = ()
    env: Sequence[str] = ()
    working_dir: str = ""
    user: str = ""
    stop_signal: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    diff_ids: Sequence[str] = ()
    healthcheck: Healthcheck | None = None


@dataclass(frozen=True, slots=True)
class ImageDetails:
    """An image and its configuration, which an artifact or another platform's image has not."""

    image: Image
    config: ImageConfig | None


@dataclass(frozen=True, slots=True)
class Resolved:
    """A name became a digest."""

    name: str
    digest: str
    media_type: str


@dataclass(frozen=True, slots=True)
class BlobProgress:
    """How far one blob has come; it replaces what was said of it before. ``total`` is 0 when not known,
    ``rate`` is in bytes a second."""

    digest: str
    kind: BlobKind
    state: BlobState
    current: int = 0
    total: int = 0
    rate: int = 0


PullProgress = Resolved | BlobProgress | Image
"""One step of a pull: what the name resolved to first, progress as it happens, the image last."""


@dataclass(frozen=True, slots=True)
class Referrer:
    """Something that says of itself that it is about something else; ``size`` is its manifest's, in bytes."""

    digest: str
    media_type: str
    size: int
    artifact_type: str = ""
    annotations: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True)
class Referrers:
    """What refers to the digest ``subject``, in the registry's order."""

    subject: str
    listed: tuple[Referrer, ...]


@dataclass(frozen=True, slots=True)
class Pushed:
    """An image is where it was pushed to."""

    name: str
    digest: str
    media_type: str


PushProgress = Resolved | BlobProgress | Pushed
"""One step of a push: what the name will point at first, progress as it happens, that it does last."""


@dataclass(frozen=True, slots=True)
class Build:
    """What an image to be built is called, what it asks of its containers and what it runs on."""

    name: str
    config: ImageConfig = ImageConfig()
    platform: Platform | None = None


@dataclass(frozen=True, slots=True)
class Removed:
    """An image's name that is gone, and the digests that went with it."""

    name: str
    deleted: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Mount:
    """One mount of a container. ``target`` is an absolute path inside, ``source`` one of the machine."""

    target: str
    source: str = ""
    type: MountType = MountType.BIND
    read_only: bool = False
    options: Sequence[str] = ()


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
    resources: Resources = Resources()
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
    security: Security = Security()
    group_add: Sequence[str] = ()
    shm_bytes: int = 0
    namespaces: Namespaces = Namespaces()
    oom_score_adj: int | None = None


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
class Stats:
    """What a container uses: processor time and block input and output so far, the rest at ``at``."""

    at: datetime | None
    cpu_nanos: int
    memory_bytes: int
    memory_limit: int
    pids: int
    io_read_bytes: int
    io_write_bytes: int


@dataclass(frozen=True, slots=True)
class Info:
    """What a daemon is, where it keeps things, what it can do."""

    root_dir: str
    state_dir: str
    default_snapshotter: str
    default_runtime: str
    containers: int
    containers_running: int
    images: int
    cgroup_mode: str
    kernel: str
    architecture: str
    extra: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Version:
    """The daemon's version and those of what it stands on."""

    version: str
    revision: str
    python: str
    containerd_api: str


@dataclass(frozen=True, slots=True)
class Usage:
    """How many of something there are, and the bytes they take on disk."""

    count: int
    bytes: int


@dataclass(frozen=True, slots=True)
class DiskUsage:
    """What the namespace takes on disk; ``snapshots`` by snapshotter.

    ``reclaimable`` are the bytes of content that a prune frees, ``reclaimable_all`` those of a prune of
    stopped containers and unused images too; ``reclaimable_snapshots`` what that frees of each snapshotter.
    """

    content: Usage
    snapshots: Mapping[str, Usage]
    reclaimable: int
    reclaimable_all: int = 0
    reclaimable_snapshots: Mapping[str, int] = field(default_factory=dict[str, int])


@dataclass(frozen=True, slots=True)
class ObjectUsage:
    """A blob or a snapshot, its bytes, and what keeps it; ``keepers`` are counted up to ten."""

    kind: ObjectKind
    id: str
    bytes: int
    created_at: datetime | None
    kept_by: str
    keepers: int


@dataclass(frozen=True, slots=True)
class ReferenceLink:
    """An object that leads to the next by ``reference``; the first has a ``reason`` and perhaps an end."""

    kind: ObjectKind
    id: str
    reference: str
    reason: str
    expires_at: datetime | None


@dataclass(frozen=True, slots=True)
class Removal:
    """How something went; ``collected`` unless somebody removed it by name."""

    kind: ObjectKind
    id: str
    at: datetime | None
    collected: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why an object is there, ``chains`` from what keeps it to it; or when it is not, how it went."""

    kind: ObjectKind
    id: str
    present: bool
    chains: tuple[tuple[ReferenceLink, ...], ...]
    more_chains: bool
    removals: tuple[Removal, ...]


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that a check found wrong; ``repaired`` says what was done about it, ``hint`` what can be."""

    code: str
    namespace: str
    object: str
    message: str
    repaired: str
    hint: str


@dataclass(frozen=True, slots=True)
class CheckProgress:
    """How far a check is, in blobs and bytes."""

    stage: str
    blobs: int
    blobs_total: int
    bytes: int
    bytes_total: int


@dataclass(frozen=True, slots=True)
class CheckSummary:
    """What a check came to, in findings, blobs, bytes hashed and snapshots."""

    findings: int
    repaired: int
    blobs: int
    bytes: int
    snapshots: int


@dataclass(frozen=True, slots=True)
class PrunedObject:
    """Something that a prune removed, or would remove: snapshots are SNAPSHOTTER/KEY."""

    kind: ObjectKind
    id: str
    bytes: int
    reason: str


@dataclass(frozen=True, slots=True)
class Pruned:
    """What a prune removed, or would remove; ``more`` objects beside those named, ``reclaimed`` in bytes."""

    objects: tuple[PrunedObject, ...]
    reclaimed: int
    more: int = 0

    def _ids(self, kind: ObjectKind) -> tuple[str, ...]:
        return tuple(each.id for each in self.objects if each.kind is kind)

    @property
    def containers(self) -> tuple[str, ...]:
        """The ids of the containers among them."""
        return self._ids(ObjectKind.CONTAINER)

    @property
    def images(self) -> tuple[str, ...]:
        """The names of the images among them."""
        return self._ids(ObjectKind.IMAGE)

    @property
    def blobs(self) -> tuple[str, ...]:
        """The digests of the blobs among them."""
        return self._ids(ObjectKind.BLOB)

    @property
    def snapshots(self) -> tuple[str, ...]:
        """The snapshots among them."""
        return self._ids(ObjectKind.SNAPSHOT)


@dataclass(frozen=True, slots=True)
class Event:
    """One event; ``json`` is the event's message, ``type_url`` what kind of message it is."""

    at: datetime | None
    namespace: str
    topic: str
    type_url: str
    json: str


@dataclass(frozen=True, slots=True)
class EventsGap:
    """A notice among events: from ``since`` on some may be missing, from ``until`` on all are there."""

    since: datetime | None
    until: datetime | None
    reason: str


@dataclass(frozen=True, slots=True)
class Plugin:
    """One plugin of the daemon, those that failed or do not suit its machine included."""

    kind: str
    id: str
    status: PluginStatus
    reason: str = ""
    origin: str = ""
    aliases: tuple[str, ...] = ()
    exports: Mapping[str, str] = field(default_factory=dict)
