"""OCI runtime specs: what a container's process, filesystem and limits are told to a runtime as."""

from .capabilities import DEFAULT_CAPABILITIES, adjust_capabilities
from .devices import SpecDevice
from .hooks import HookStage, SpecHook
from .idmaps import NO_MAPS, IdMaps, IdRange, UserNamespace, resolve_maps
from .image import inherited_labels
from .mounts import MountKind, SpecMount
from .resources import BlockLimit, Resources
from .rootfs import Rootfs
from .security import Security, SpecRlimit
from .spec import BuildOptions, Namespace, Namespaces, Network, build_process, build_spec
from .types import OCI_VERSION, Process, Spec
from .users import User, resolve_user

__all__ = [
    "DEFAULT_CAPABILITIES",
    "NO_MAPS",
    "OCI_VERSION",
    "BlockLimit",
    "BuildOptions",
    "HookStage",
    "IdMaps",
    "IdRange",
    "MountKind",
    "Namespace",
    "Namespaces",
    "Network",
    "Process",
    "Resources",
    "Rootfs",
    "Security",
    "Spec",
    "SpecDevice",
    "SpecHook",
    "SpecMount",
    "SpecRlimit",
    "User",
    "UserNamespace",
    "adjust_capabilities",
    "build_process",
    "build_spec",
    "inherited_labels",
    "resolve_maps",
    "resolve_user",
]
