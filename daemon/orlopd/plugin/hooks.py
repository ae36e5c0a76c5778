"""The hook specifications: every way in for a plugin.

Providers offer parts; the host opens them in order of what they require and registers them under
their kind and id. Participants are called along the way. A hook may take any subset of the
arguments listed. Participants may be sync or async.
"""

from __future__ import annotations

from collections.abc import Awaitable, Iterable, Mapping
from typing import Any

import pluggy

from .content import ContentStore
from .diff import Differ
from .mounting import MountHandler
from .processor import Processor
from .provider import Provider
from .remote import Proxy
from .resolver import Resolver
from .runtime import Runtime
from .service import Service
from .snapshots import Snapshotter
from .values import Container, Descriptor, Event
from .verifier import Verifier

PROJECT = "orlop"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def orlop_content_stores() -> Iterable[Provider[ContentStore]]:  # pyright: ignore[reportReturnType]
    """Offer content stores."""


@hookspec
def orlop_snapshotters() -> Iterable[Provider[Snapshotter]]:  # pyright: ignore[reportReturnType]
    """Offer snapshotters."""


@hookspec
def orlop_differs() -> Iterable[Provider[Differ]]:  # pyright: ignore[reportReturnType]
    """Offer differs; the first that handles a media type is used, in the config's order."""


@hookspec
def orlop_processors() -> Iterable[Provider[Processor]]:  # pyright: ignore[reportReturnType]
    """Offer stream processors; they make layers of other media types into those that a differ handles."""


@hookspec
def orlop_resolvers() -> Iterable[Provider[Resolver]]:  # pyright: ignore[reportReturnType]
    """Offer resolvers; the first that handles a reference is used, in the config's order."""


@hookspec
def orlop_runtimes() -> Iterable[Provider[Runtime]]:  # pyright: ignore[reportReturnType]
    """Offer runtimes."""


@hookspec
def orlop_verifiers() -> Iterable[Provider[Verifier]]:  # pyright: ignore[reportReturnType]
    """Offer verifiers; an image comes in when every one of them lets it pass."""


@hookspec
def orlop_services() -> Iterable[Provider[Service]]:  # pyright: ignore[reportReturnType]
    """Offer further gRPC services."""


@hookspec
def orlop_proxies() -> Iterable[Proxy[Any]]:  # pyright: ignore[reportReturnType]
    """Offer ways to have a part that another process serves on a socket; the config names which."""


@hookspec
def orlop_mount_handlers() -> Iterable[Provider[MountHandler]]:  # pyright: ignore[reportReturnType]
    """Offer handlers of mounts for the Mounts service; the id is the mount's type."""


@hookspec
def orlop_adjust_spec(namespace: str, container: Container, spec: dict[str, Any]) -> Awaitable[None] | None:
    """Change a container's OCI runtime spec in place before the container is created."""


@hookspec
def orlop_check_image(namespace: str, name: str, target: Descriptor) -> Awaitable[None] | None:
    """Look at an image before its layers are fetched; raise PermissionDenied to refuse it."""


@hookspec
def orlop_event(event: Event) -> Awaitable[None] | None:
    """See every event. Slow work belongs elsewhere: events of one daemon wait for each other."""


@hookspec
def orlop_info() -> Mapping[str, str]:  # pyright: ignore[reportReturnType]
    """Add fields to ``orlop info``."""


@hookspec
def orlop_warnings() -> Iterable[str]:  # pyright: ignore[reportReturnType]
    """Say what a person should know about this machine, for ``orlop info``; a sentence each."""
