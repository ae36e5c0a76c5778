"""OCI runtime specs: what a container's process, filesystem and limits are told to a runtime as."""

from .capabilities import DEFAULT_CAPABILITIES, adjust_capabilities
from .image import inherited_labels
from .rootfs import Rootfs
from .spec import BuildOptions, MountKind, Network, Resources, SpecMount, build_process, build_spec
from .types import OCI_VERSION, Process, Spec
from .users import User, resolve_user

__all__ = [
    "DEFAULT_CAPABILITIES",
    "OCI_VERSION",
    "BuildOptions",
    "MountKind",
    "Network",
    "Process",
    "Resources",
    "Rootfs",
    "Spec",
    "SpecMount",
    "User",
    "adjust_capabilities",
    "build_process",
    "build_spec",
    "inherited_labels",
    "resolve_user",
]
