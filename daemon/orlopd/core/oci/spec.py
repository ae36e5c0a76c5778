"""The builder of OCI runtime specs (runtime-spec 1.0.2). Pure: what comes out depends on what goes in."""

from __future__ import annotations

import enum
import posixpath
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from orlopd.core.manifests import ImageConfig
from orlopd.plugin.errors import InvalidArgument, NotFound

from .capabilities import adjust_capabilities
from .defaults import MASKED_PATHS, READONLY_PATHS, default_mounts, default_rlimits, device_rules
from .image import DEFAULT_PATH, NO_IMAGE, merge_args, merge_env, usable_env
from .rootfs import Rootfs, check_absolute, check_directory
from .seccomp import default_profile
from .types import (
    OCI_VERSION,
    Capabilities,
    Cpu,
    Linux,
    LinuxResources,
    Memory,
    MountEntry,
    NamespaceEntry,
    Pids,
    Process,
    ProcessUser,
    Root,
    Spec,
)
from .users import User, resolve_user

CPU_PERIOD = 100_000  # microseconds, the kernel's own default
_SHORTEST_QUOTA = 1_000  # microseconds: the kernel takes no less
_HOSTNAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,62}[A-Za-z0-9])?")


class MountKind(enum.Enum):
    """What is mounted into a container."""

    BIND = "bind"
    TMPFS = "tmpfs"


@dataclass(frozen=True, slots=True)
class SpecMount:
    """A mount of a request. ``source`` is a path of the host for a bind."""

    kind: MountKind
    target: str
    source: str = ""
    read_only: bool = False
    options: tuple[str, ...] = ()


class Network(enum.Enum):
    """The network a container is in."""

    NONE = "none"
    HOST = "host"


@dataclass(frozen=True, slots=True)
class Resources:
    """Limits; 0 is none. ``nano_cpus`` are billionths of a processor."""

    memory_bytes: int = 0
    nano_cpus: int = 0
    pids: int = 0


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """What a container shall be. See ``orlop.engine.v1.ContainerSpec`` for the meaning of each."""

    namespace: str
    id: str
    root: str = "rootfs"
    image: ImageConfig = NO_IMAGE
    args: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] | None = None
    env: tuple[str, ...] = ()
    working_dir: str = ""
    user: str = ""
    hostname: str = ""
    terminal: bool = False
    mounts: tuple[SpecMount, ...] = ()
    files: tuple[SpecMount, ...] = field(default=())
    """Files of the daemon's making, bound before ``mounts`` so that a request may cover them."""
    network: Network = Network.NONE
    resources: Resources = Resources()
    read_only: bool = False
    cap_add: tuple[str, ...] = ()
    cap_drop: tuple[str, ...] = ()
    no_new_privileges: bool = False
    seccomp: bool = True


def build_spec(options: BuildOptions, rootfs: Rootfs | None) -> Spec:
    """The spec of a container whose root filesystem is ``rootfs``.

    Users, groups and the working directory are looked up there; it may block on its files, so call
    this in a thread.

    :raises InvalidArgument: what was asked makes no sense, with a reason
    :raises NotFound: the source of a bind mount is not there
    """
    capabilities = adjust_capabilities(options.cap_add, options.cap_drop)
    spec = Spec(
        ociVersion=OCI_VERSION,
        process=_process(options, rootfs, capabilities),
        root=Root(path=options.root, readonly=True) if options.read_only else Root(path=options.root),
        mounts=_mounts(options),
        linux=_linux(options, capabilities),
    )
    if options.hostname:
        if not _HOSTNAME.fullmatch(options.hostname):
            raise InvalidArgument(
                f"malformed host name {options.hostname[:80]!r}: want up to 64 letters, digits, dots, dashes"
            )
        spec["hostname"] = options.hostname
    return spec


def build_process(
    base: Process,
    rootfs: Rootfs | None,
    *,
    args: Sequence[str],
    env: Sequence[str] = (),
    working_dir: str = "",
    user: str = "",
    terminal: bool = False,
) -> Process:
    """One more process for a container whose main one is ``base``; what is not said is as there.

    :raises InvalidArgument: as :func:`build_spec`
    """
    process = base.copy()
    process["args"] = merge_args(NO_IMAGE, None, args)
    inherited = [entry for entry in base["env"] if terminal or not entry.startswith("TERM=")]
    if terminal and not any(entry.startswith("TERM=") for entry in inherited):
        inherited.append("TERM=xterm")
    if user:
        who = resolve_user(user, rootfs)
        process["user"] = _user(who)
        inherited = merge_env(usable_env(inherited), [f"HOME={_home(who)}"])
    process["env"] = merge_env(usable_env(inherited), env)
    process["cwd"] = check_directory(check_absolute(working_dir) if working_dir else base["cwd"], rootfs)
    process["terminal"] = terminal
    return process


def _process(options: BuildOptions, rootfs: Rootfs | None, capabilities: list[str]) -> Process:
    image = options.image
    who = resolve_user(options.user or image.user, rootfs)
    own = [f"PATH={DEFAULT_PATH}", f"HOSTNAME={options.hostname}"]
    if options.terminal:
        own.append("TERM=xterm")
    asked = [*usable_env(image.env), *options.env]
    # As a login would, unless somebody says otherwise; an image's HOME belongs to the image's user.
    own.append(f"HOME={_home(who)}")
    return Process(
        terminal=options.terminal,
        user=_user(who),
        args=merge_args(image, options.entrypoint, options.args),
        env=merge_env(own, asked),
        cwd=check_directory(options.working_dir or image.working_dir or "/", rootfs),
        capabilities=Capabilities(bounding=capabilities, effective=capabilities, permitted=capabilities),
        rlimits=default_rlimits(),
        noNewPrivileges=options.no_new_privileges,
    )


def _home(who: User) -> str:
    return who.home if who.home.startswith("/") and who.home.isprintable() else "/" if who.uid else "/root"


def _user(who: User) -> ProcessUser:
    return ProcessUser(uid=who.uid, gid=who.gid, additionalGids=list(who.additional_gids))


def _mounts(options: BuildOptions) -> list[MountEntry]:
    asked = [_target(item) for item in options.mounts]
    targets = [item.target for item in asked]
    for target in targets:
        if targets.count(target) > 1:
            raise InvalidArgument(f"two mounts on {target!r}", reason="DUPLICATE_MOUNT")
    files = [item for item in options.files if item.target not in targets]
    kept = [entry for entry in default_mounts() if entry["destination"] not in targets]
    # A mount on a directory would hide an earlier one below it.
    ordered = sorted([*files, *asked], key=lambda item: item.target.count("/"))
    return kept + [_entry(item) for item in ordered]


def _target(item: SpecMount) -> SpecMount:
    if not item.target.startswith("/") or "\0" in item.target:
        raise InvalidArgument(f"mount target {item.target[:200]!r} is not an absolute path")
    target = posixpath.normpath("/" + item.target.lstrip("/"))
    if target == "/":
        raise InvalidArgument("a mount on / would hide the root filesystem")
    for option in item.options:
        if not option or "," in option or "\0" in option:
            raise InvalidArgument(f"malformed mount option {option[:80]!r}")
    return replace(item, target=target)


def _entry(item: SpecMount) -> MountEntry:
    access = "ro" if item.read_only else "rw"
    if item.kind is MountKind.TMPFS:
        options = ["nosuid", "nodev", *([] if "exec" in item.options else ["noexec"]), *item.options, access]
        return MountEntry(destination=item.target, type="tmpfs", source="tmpfs", options=options)
    if not item.source.startswith("/") or "\0" in item.source:
        raise InvalidArgument(f"bind source {item.source[:200]!r} is not an absolute path")
    if not Path(item.source).exists():
        raise NotFound(
            f"bind source {item.source!r} is not there",
            reason="MOUNT_SOURCE_NOT_FOUND",
            resource=f"path {item.source}",
            hint="make it first: nothing is made on the host for a mount",
        )
    propagation = {"private", "rprivate", "shared", "rshared", "slave", "rslave", "unbindable", "runbindable"}
    options = [] if {"bind", "rbind"} & set(item.options) else ["rbind"]
    options += [] if propagation & set(item.options) else ["rprivate"]
    return MountEntry(
        destination=item.target, type="bind", source=item.source, options=[*options, *item.options, access]
    )


def _linux(options: BuildOptions, capabilities: list[str]) -> Linux:
    namespaces = ["pid", "ipc", "uts", "mount"]
    if options.network is not Network.HOST:
        namespaces.append("network")
    if Path("/sys/fs/cgroup/cgroup.controllers").exists():  # with v1 programs expect to see their path
        namespaces.append("cgroup")
    linux = Linux(
        resources=_resources(options.resources),
        cgroupsPath=f"/{options.namespace}/{options.id}",
        namespaces=[NamespaceEntry(type=name) for name in namespaces],
        maskedPaths=list(MASKED_PATHS),
        readonlyPaths=list(READONLY_PATHS),
    )
    profile = default_profile(capabilities) if options.seccomp else None
    if profile is not None:
        linux["seccomp"] = profile
    return linux


def _resources(wanted: Resources) -> LinuxResources:
    if min(wanted.memory_bytes, wanted.nano_cpus, wanted.pids) < 0:
        raise InvalidArgument("a limit cannot be negative; 0 is none")
    limits = LinuxResources(devices=device_rules())
    if wanted.memory_bytes:
        if wanted.memory_bytes < 6 << 20:  # what a runtime needs to start a process at all
            raise InvalidArgument(f"{wanted.memory_bytes} bytes of memory are too few: 6 MiB is the least")
        limits["memory"] = Memory(limit=wanted.memory_bytes)
    if wanted.nano_cpus:
        quota = wanted.nano_cpus * CPU_PERIOD // 1_000_000_000
        if quota < _SHORTEST_QUOTA:
            raise InvalidArgument("less than 0.01 of a processor is not enough to run")
        limits["cpu"] = Cpu(quota=quota, period=CPU_PERIOD)
    if wanted.pids:
        limits["pids"] = Pids(limit=wanted.pids)
    return limits
