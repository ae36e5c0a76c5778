"""The builder of OCI runtime specs (runtime-spec 1.0.2). Pure: what comes out depends on what goes in."""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from orlopd.core.manifests import ImageConfig
from orlopd.plugin.errors import InvalidArgument
from orlopd.plugin.values import NO_LABELS

from .capabilities import ALL, adjust_capabilities
from .cdi import DEFAULT_FOLDERS, Registry, annotated
from .defaults import MASKED_PATHS, READONLY_PATHS, default_mounts, default_rlimits
from .devices import SpecDevice, find_nodes, host_nodes
from .hooks import SpecHook, build_hooks
from .idmaps import NO_MAPS, IdMaps
from .image import DEFAULT_PATH, NO_IMAGE, merge_args, merge_env, usable_env
from .mounts import SpecMount, build_mounts, root_propagation
from .resources import Resources, build_resources
from .rootfs import Rootfs, check_absolute, check_directory
from .seccomp import default_profile
from .security import (
    UNCONFINED,
    Security,
    SpecRlimit,
    apparmor_profile,
    build_rlimits,
    check_sysctls,
    parse_seccomp,
)
from .types import (
    OCI_VERSION,
    Capabilities,
    Linux,
    MountEntry,
    NamespaceEntry,
    Process,
    ProcessUser,
    Root,
    Seccomp,
    Spec,
)
from .users import User, further_groups, resolve_user

_HOSTNAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,62}[A-Za-z0-9])?")
_TTY_GROUP = 5


class Network(enum.Enum):
    """The network a container is in."""

    NONE = "none"
    HOST = "host"


class Namespace(enum.Enum):
    """Whose namespace of a kind."""

    DEFAULT = ""
    PRIVATE = "private"
    HOST = "host"


@dataclass(frozen=True, slots=True)
class Namespaces:
    """The namespaces beside those of the network and of ids."""

    pid: Namespace = Namespace.DEFAULT
    ipc: Namespace = Namespace.DEFAULT
    uts: Namespace = Namespace.DEFAULT
    cgroup: Namespace = Namespace.DEFAULT


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
    group_add: tuple[str, ...] = ()
    hostname: str = ""
    terminal: bool = False
    mounts: tuple[SpecMount, ...] = ()
    files: tuple[SpecMount, ...] = field(default=())
    """Files of the daemon's making, bound before ``mounts`` so that a request may cover them."""
    network: Network = Network.NONE
    namespaces: Namespaces = Namespaces()
    maps: IdMaps = NO_MAPS
    resources: Resources = Resources()  # noqa: RUF009 - a frozen value
    rlimits: tuple[SpecRlimit, ...] = ()
    sysctls: Mapping[str, str] = field(default_factory=lambda: NO_LABELS)
    annotations: Mapping[str, str] = field(default_factory=lambda: NO_LABELS)
    devices: tuple[SpecDevice, ...] = ()
    cdi_folders: tuple[Path, ...] = DEFAULT_FOLDERS
    security: Security = Security()  # noqa: RUF009 - a frozen value
    read_only: bool = False
    cap_add: tuple[str, ...] = ()
    cap_drop: tuple[str, ...] = ()
    shm_bytes: int = 0
    oom_score_adj: int | None = None
    hooks: tuple[SpecHook, ...] = ()


def build_spec(options: BuildOptions, rootfs: Rootfs | None) -> Spec:
    """The spec of a container whose root filesystem is ``rootfs``.

    Users and the working directory are looked up there; it may block on its files, so call
    this in a thread.

    :raises InvalidArgument: what was asked makes no sense, with a reason
    :raises NotFound: the source of a bind mount or a device is not there
    :raises FailedPrecondition: this machine cannot do what was asked
    """
    security = options.security
    if security.privileged:
        if options.maps:
            raise InvalidArgument("a privileged container cannot have a user namespace of its own")
        options = replace(options, cap_add=(ALL, *options.cap_add), security=replace(security, unmask=True))
    capabilities = adjust_capabilities(options.cap_add, options.cap_drop)
    mounts = build_mounts(_defaults(options), options.files, options.mounts)
    spec = Spec(
        ociVersion=OCI_VERSION,
        process=_process(options, rootfs, capabilities),
        root=Root(path=options.root, readonly=True) if options.read_only else Root(path=options.root),
        mounts=mounts,
        linux=_linux(options, capabilities, root_propagation(mounts)),
    )
    if options.hostname and options.namespaces.uts is not Namespace.HOST:
        if not _HOSTNAME.fullmatch(options.hostname):
            raise InvalidArgument(
                f"malformed host name {options.hostname[:80]!r}: want up to 64 letters, digits, dots, dashes"
            )
        spec["hostname"] = options.hostname
    if options.annotations:
        spec["annotations"] = _annotations(options.annotations)
    if options.hooks:
        spec["hooks"] = build_hooks(options.hooks)
    names = [*(each.cdi for each in options.devices if each.cdi), *annotated(options.annotations)]
    if names:
        Registry(options.cdi_folders).inject(names, spec)
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
    image, security = options.image, options.security
    who = resolve_user(options.user or image.user, rootfs)
    who = replace(who, additional_gids=further_groups(who, options.group_add, rootfs))
    own = [f"PATH={DEFAULT_PATH}", f"HOSTNAME={options.hostname}"]
    if options.terminal:
        own.append("TERM=xterm")
    asked = [*usable_env(image.env), *options.env]
    # As a login would, unless somebody says otherwise; an image's HOME belongs to the image's user.
    own.append(f"HOME={_home(who)}")
    if options.maps:
        options.maps.uid(who.uid)
        for gid in (who.gid, *who.additional_gids):
            options.maps.gid(gid)
    process = Process(
        terminal=options.terminal,
        user=_user(who),
        args=merge_args(image, options.entrypoint, options.args),
        env=merge_env(own, asked),
        cwd=check_directory(options.working_dir or image.working_dir or "/", rootfs),
        capabilities=Capabilities(bounding=capabilities, effective=capabilities, permitted=capabilities),
        rlimits=build_rlimits(default_rlimits(), options.rlimits),
        noNewPrivileges=security.no_new_privileges,
    )
    apparmor = apparmor_profile(
        UNCONFINED if security.privileged and not security.apparmor else security.apparmor
    )
    if apparmor:
        process["apparmorProfile"] = apparmor
    if options.oom_score_adj is not None:
        if not -1000 <= options.oom_score_adj <= 1000:
            raise InvalidArgument(f"oom_score_adj {options.oom_score_adj}: -1000 to 1000 are possible")
        process["oomScoreAdj"] = options.oom_score_adj
    return process


def _home(who: User) -> str:
    return who.home if who.home.startswith("/") and who.home.isprintable() else "/" if who.uid else "/root"


def _user(who: User) -> ProcessUser:
    return ProcessUser(uid=who.uid, gid=who.gid, additionalGids=list(who.additional_gids))


def _defaults(options: BuildOptions) -> list[MountEntry]:
    """The default mounts as this container's namespaces allow them."""
    if options.shm_bytes < 0:
        raise InvalidArgument("the size of /dev/shm cannot be negative")
    mounts: list[MountEntry] = []
    writable = options.security.privileged
    for entry in default_mounts(shm_bytes=options.shm_bytes):
        place, flags = entry["destination"], entry["options"]
        if options.namespaces.ipc is Namespace.HOST and options.maps and place == "/dev/mqueue":
            continue  # only who owns the namespace that it shows may mount it
        if options.namespaces.ipc is Namespace.HOST and place == "/dev/shm":
            entry = MountEntry(
                destination=place, type="bind", source=place, options=["rbind", "nosuid", "nodev"]
            )
        elif place == "/sys" and options.maps and options.network is Network.HOST:
            # sysfs can be mounted only by who owns the network that it shows.
            entry["type"], entry["source"], entry["options"] = "bind", "/sys", ["rbind", *flags]
        elif place == "/dev/pts" and not options.maps.has_gid(_TTY_GROUP):
            entry["options"] = [flag for flag in flags if not flag.startswith("gid=")]
        if writable and place in ("/sys", "/sys/fs/cgroup"):
            entry["options"] = [flag for flag in entry["options"] if flag != "ro"]
        mounts.append(entry)
    return mounts


def _linux(options: BuildOptions, capabilities: list[str], propagation: str) -> Linux:
    own = options.namespaces
    hosts = {"pid": own.pid, "ipc": own.ipc, "uts": own.uts}
    namespaces = ["mount", *(kind for kind, whose in hosts.items() if whose is not Namespace.HOST)]
    own_network = options.network is not Network.HOST
    if own_network:
        namespaces.append("network")
    # With v1 programs expect to see their path.
    unified = Path("/sys/fs/cgroup/cgroup.controllers").exists()
    if own.cgroup is Namespace.PRIVATE or (own.cgroup is Namespace.DEFAULT and unified):
        namespaces.append("cgroup")
    if options.maps:
        namespaces.append("user")
    resources = build_resources(options.resources)
    nodes = (
        host_nodes() if options.security.privileged else find_nodes(options.devices, owned=not options.maps)
    )
    resources["devices"] += nodes.rules
    unmask = options.security.unmask
    linux = Linux(
        resources=resources,
        cgroupsPath=f"/{options.namespace}/{options.id}",
        namespaces=[NamespaceEntry(type=name) for name in namespaces],
        maskedPaths=[] if unmask else list(MASKED_PATHS),
        readonlyPaths=[] if unmask else list(READONLY_PATHS),
    )
    if options.maps:
        linux["uidMappings"], linux["gidMappings"] = options.maps.mappings
    if nodes.devices:
        linux["devices"] = list(nodes.devices)
    if options.sysctls:
        own_ipc = own.ipc is not Namespace.HOST
        linux["sysctl"] = check_sysctls(options.sysctls, own_network=own_network, own_ipc=own_ipc)
    if propagation:
        linux["rootfsPropagation"] = propagation
    profile = _seccomp(options.security, capabilities)
    if profile is not None:
        linux["seccomp"] = profile
    return linux


def _seccomp(security: Security, capabilities: list[str]) -> Seccomp | None:
    if security.seccomp == UNCONFINED or (security.privileged and not security.seccomp):
        return None
    if security.seccomp:
        return parse_seccomp(security.seccomp, capabilities)
    return default_profile(capabilities)


def _annotations(asked: Mapping[str, str]) -> dict[str, str]:
    for key, value in asked.items():
        if not key or "\0" in key + value or len(key) + len(value) > 1 << 16:
            raise InvalidArgument(f"malformed annotation {key[:80]!r}")
    return dict(asked)
