"""The gRPC faces of the core: translate, call, map errors.

A service is a class that takes the :class:`orlopd.core.core.Core` and has
``register(server) -> names``. A new one is a line here.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

from orlopd.core.core import Core
from orlopd.plugin import Service

SERVICES: tuple[str, ...] = (
    "containerd.version:VersionService",
    "containerd.introspection:IntrospectionService",
    "containerd.namespaces:NamespacesService",
    "containerd.content:ContentService",
    "containerd.images:ImagesService",
    "containerd.snapshots:SnapshotsService",
    "containerd.diff:DiffService",
    "containerd.mounts:MountsService",
    "containerd.leases:LeasesService",
    "containerd.containers:ContainersService",
    "containerd.tasks:TasksService",
    "containerd.events:EventsService",
    "containerd.transfer:TransferService",
    "engine.images:ImageService",
    "engine.containers:ContainerService",
    "engine.system:SystemService",
    "engine.shims:ShimService",
    "engine.volumes:VolumeService",
)
"""Where the services are: module below this package, and class."""


def all_services(core: Core) -> Sequence[Service]:
    """The daemon's own services."""
    services: list[Service] = []
    for entry in SERVICES:
        module, _, name = entry.partition(":")
        service: Any = getattr(importlib.import_module(f"{__name__}.{module}"), name)
        services.append(service(core))
    return services
