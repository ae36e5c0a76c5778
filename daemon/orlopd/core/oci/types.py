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


class Memory(TypedDict):
    """config-linux.md#memory"""

    limit: int


class Cpu(TypedDict):
    """config-linux.md#cpu"""

    quota: int
    period: int


class Pids(TypedDict):
    """config-linux.md#pids"""

    limit: int


class LinuxResources(TypedDict):
    """config-linux.md#control-groups"""

    devices: list[DeviceRule]
    memory: NotRequired[Memory]
    cpu: NotRequired[Cpu]
    pids: NotRequired[Pids]


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
    architectures: list[str]
    syscalls: list[SeccompRule]


class Linux(TypedDict):
    """config-linux.md"""

    resources: LinuxResources
    cgroupsPath: str
    namespaces: list[NamespaceEntry]
    seccomp: NotRequired[Seccomp]
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
    linux: Linux
