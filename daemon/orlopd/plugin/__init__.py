"""The plugin API: contracts, values, errors and hooks. A plugin needs nothing else of the daemon."""

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
from .resolver import Credentials, ResolveOptions, Resolver, Source
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
    "Differ",
    "Ingest",
    "Kind",
    "Progress",
    "Provider",
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
