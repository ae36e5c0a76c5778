"""The plugin API: contracts, values, errors and hooks. A plugin needs nothing else of the daemon.

The names below come from their modules when they are first used, so that a small program (a shim, a
worker) that wants only :mod:`~orlopd.plugin.errors` or :mod:`~orlopd.plugin.mount` pays for nothing else.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .content import BlobReader, ContentStore, Ingest
    from .diff import Differ, Progress
    from .hooks import hookimpl
    from .provider import (
        CONTENT,
        DIFFER,
        RESOLVER,
        RUNTIME,
        SERVICE,
        SNAPSHOTTER,
        Config,
        Context,
        Kind,
        Provider,
        Requirement,
    )
    from .resolver import (
        Credentials,
        Destination,
        Pushed,
        PushingResolver,
        Referrers,
        ReferringResolver,
        ResolveOptions,
        Resolver,
        Source,
    )
    from .runtime import Runtime, Task
    from .service import Service
    from .snapshots import Snapshotter

__all__ = [
    "CONTENT",
    "DIFFER",
    "RESOLVER",
    "RUNTIME",
    "SERVICE",
    "SNAPSHOTTER",
    "BlobReader",
    "Config",
    "ContentStore",
    "Context",
    "Credentials",
    "Destination",
    "Differ",
    "Ingest",
    "Kind",
    "Progress",
    "Provider",
    "Pushed",
    "PushingResolver",
    "Referrers",
    "ReferringResolver",
    "Requirement",
    "ResolveOptions",
    "Resolver",
    "Runtime",
    "Service",
    "Snapshotter",
    "Source",
    "Task",
    "hookimpl",
]

_HOMES = {
    "content": ("BlobReader", "ContentStore", "Ingest"),
    "diff": ("Differ", "Progress"),
    "hooks": ("hookimpl",),
    "provider": (
        *("CONTENT", "DIFFER", "RESOLVER", "RUNTIME", "SERVICE", "SNAPSHOTTER"),
        *("Config", "Context", "Kind", "Provider", "Requirement"),
    ),
    "resolver": (
        *("Credentials", "Destination", "Pushed", "PushingResolver"),
        *("Referrers", "ReferringResolver", "ResolveOptions", "Resolver", "Source"),
    ),
    "runtime": ("Runtime", "Task"),
    "service": ("Service",),
    "snapshots": ("Snapshotter",),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> object:
    module = _HOME.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(importlib.import_module(f".{module}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
