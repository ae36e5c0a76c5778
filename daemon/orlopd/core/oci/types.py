"""The shape of an OCI runtime spec as JSON (runtime-spec 1.0.2, config.md and config-linux.md).

Only what this builder writes; a spec that came from elsewhere may hold more.
"""

from __future__ import annotations

from typing import NotRequired, TypedDict

OCI_VERSION = "1.0.2"


class ProcessUser(TypedDict):
    """config.md#posix-platform-user"""

    uid: int
    gid: int
    additionalGids: NotRequired[list[int]]


class Rlimit(TypedDict):
    """config.md#posix-process"""

    type: str
    hard: int
    soft: int


class Capabilities(TypedDict):
    """``inheritable`` and ``ambient`` stay away on purpose: a set-id-free exec must not gain them."""

    bounding: list[str]
    effective: list[str]
    permitted: list[str]


class Process(TypedDict):
    """config.md#process"""

    terminal: NotRequired[bool]
    user: ProcessUser
    args: list[str]
    env: list[str]
    cwd: str
    capabilities: NotRequired[Capabilities]
    rlimits: NotRequired[list[Rlimit]]
    noNewPrivileges: NotRequired[bool]
    apparmorProfile: NotRequired[str]
    oomScoreAdj: NotRequired[int]


class Root(TypedDict):
    """config.md#root"""

    path: str
    readonly: NotRequired[bool]


class MountEntry(TypedDict):
    """config.md#mounts"""

    destination: str
    type: str
    source: str
    options: list[str]


class DeviceRule(TypedDict):
    """config-linux.md#allowed-device-list"""

    allow: bool
    access: str
    type: NotRequired[str]
    major: NotRequired[int]
    minor: NotRequired[int]


class Memory(TypedDict, total=False):
    """config-linux.md#memory"""

    limit: int
    reservation: int
    swap: int


class Cpu(TypedDict, total=False):
    """config-linux.md#cpu"""

    shares: int
    quota: int
    period: int
    cpus: str
    mems: str


class Pids(TypedDict):
    """config-linux.md#pids"""

    limit: int


class WeightDevice(TypedDict):
    """config-linux.md#block-io"""

    major: int
    minor: int
    weight: int


class ThrottleDevice(TypedDict):
    """config-linux.md#block-io"""

    major: int
    minor: int
    rate: int


class BlockIo(TypedDict, total=False):
    """config-linux.md#block-io"""

    weight: int
    weightDevice: list[WeightDevice]
    throttleReadBpsDevice: list[ThrottleDevice]
    throttleWriteBpsDevice: list[ThrottleDevice]
    throttleReadIOPSDevice: list[ThrottleDevice]
    throttleWriteIOPSDevice: list[ThrottleDevice]


class HugePageLimit(TypedDict):
    """config-linux.md#huge-page-limits"""

    pageSize: str
    limit: int


class LinuxResources(TypedDict):
    """config-linux.md#control-groups"""

    devices: list[DeviceRule]
    memory: NotRequired[Memory]
    cpu: NotRequired[Cpu]
    pids: NotRequired[Pids]
    blockIO: NotRequired[BlockIo]
    hugepageLimits: NotRequired[list[HugePageLimit]]
    unified: NotRequired[dict[str, str]]


class Device(TypedDict):
    """config-linux.md#devices"""

    path: str
    type: str
    major: NotRequired[int]
    minor: NotRequired[int]
    fileMode: NotRequired[int]
    uid: NotRequired[int]
    gid: NotRequired[int]


class IdMapping(TypedDict):
    """config-linux.md#user-namespace-mappings"""

    containerID: int
    hostID: int
    size: int


class IntelRdt(TypedDict, total=False):
    """config-linux.md#intelrdt"""

    closID: str
    l3CacheSchema: str
    memBwSchema: str
    enableCMT: bool
    enableMBM: bool


class Hook(TypedDict):
    """config.md#posix-platform-hooks"""

    path: str
    args: NotRequired[list[str]]
    env: NotRequired[list[str]]
    timeout: NotRequired[int]


class Hooks(TypedDict, total=False):
    """config.md#posix-platform-hooks"""

    prestart: list[Hook]
    createRuntime: list[Hook]
    createContainer: list[Hook]
    startContainer: list[Hook]
    poststart: list[Hook]
    poststop: list[Hook]


class NamespaceEntry(TypedDict):
    """config-linux.md#namespaces"""

    type: str
    path: NotRequired[str]


class SeccompArg(TypedDict):
    """config-linux.md#seccomp"""

    index: int
    value: int
    valueTwo: NotRequired[int]
    op: str


class SeccompRule(TypedDict):
    """config-linux.md#seccomp"""

    names: list[str]
    action: str
    errnoRet: NotRequired[int]
    args: NotRequired[list[SeccompArg]]


class Seccomp(TypedDict):
    """config-linux.md#seccomp"""

    defaultAction: str
    defaultErrnoRet: NotRequired[int]
    flags: NotRequired[list[str]]
    architectures: list[str]
    syscalls: list[SeccompRule]


class Linux(TypedDict):
    """config-linux.md"""

    resources: LinuxResources
    cgroupsPath: str
    namespaces: list[NamespaceEntry]
    uidMappings: NotRequired[list[IdMapping]]
    gidMappings: NotRequired[list[IdMapping]]
    devices: NotRequired[list[Device]]
    sysctl: NotRequired[dict[str, str]]
    seccomp: NotRequired[Seccomp]
    rootfsPropagation: NotRequired[str]
    intelRdt: NotRequired[IntelRdt]
    maskedPaths: list[str]
    readonlyPaths: list[str]


class Spec(TypedDict):
    """config.md"""

    ociVersion: str
    process: Process
    root: Root
    hostname: NotRequired[str]
    mounts: list[MountEntry]
    annotations: NotRequired[dict[str, str]]
    hooks: NotRequired[Hooks]
    linux: Linux
