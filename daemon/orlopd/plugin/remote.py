"""Parts that live in another process and are reached over a socket, as containerd's proxy plugins are."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

from .content import ContentStore, Ingest
from .diff import Differ
from .provider import Context, Kind
from .values import NO_LABELS, BlobInfo, Descriptor, Labels, Mount, TypedBytes

T_co = TypeVar("T_co", covariant=True)

NO_PAYLOADS: Mapping[str, TypedBytes] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Peer:
    """Who serves a part: a section ``[proxy_plugins.NAME]`` of the config.

    :param name: the part's name here; requests carry it
    :param address: the path of the peer's unix socket
    :param capabilities: words that the config says of it, for example ``rebase``
    """

    name: str
    address: str
    capabilities: tuple[str, ...] = ()


# No slots: with them Python 3.11 cannot call a frozen generic class by its parametrized name.
@dataclass(frozen=True)
class Proxy(Generic[T_co]):
    """A type of proxy plugin on offer.

    :param type: its word in the config: ``snapshot``, ``content``, ``diff``
    :param kind: what it makes
    :param open: makes the part. It does not wait for the peer, which may not be there yet, and may go and
        come back
    """

    type: str
    kind: Kind[Any]
    open: Callable[[Context, Peer], T_co | Awaitable[T_co]]
    aliases: tuple[str, ...] = field(default=())


@runtime_checkable
class RemoteDiffer(Differ, Protocol):
    """A differ that gets at the daemon's content by itself, through the daemon's socket. These two are called
    in place of ``apply`` and ``diff``."""

    async def apply_in(
        self,
        namespace: str,
        layer: Descriptor,
        mounts: Sequence[Mount],
        *,
        payloads: Mapping[str, TypedBytes] = NO_PAYLOADS,
        sync: bool = False,
    ) -> Descriptor:
        """As apply, for a layer that ``namespace`` has.

        :param payloads: for the peer's processors, by their ids
        :param sync: what was written is to be durable
        """
        ...

    async def diff_in(
        self,
        namespace: str,
        lower: Sequence[Mount],
        upper: Sequence[Mount],
        media_type: str,
        *,
        ref: str = "",
        labels: Labels = NO_LABELS,
        newest: int | None = None,
    ) -> Descriptor:
        """As diff; the layer is in the content of ``namespace`` then, under a label that has its diff id.

        :param ref: the ingest to write to; empty for one of its own
        """
        ...


@runtime_checkable
class ScopedContentStore(ContentStore, Protocol):
    """A store of which each namespace sees a part."""

    def scoped(self, namespace: str) -> ContentStore:
        """What ``namespace`` sees."""
        ...


@runtime_checkable
class LabelledContentStore(ContentStore, Protocol):
    """A store whose blobs have labels, as what a namespace sees of such a store may have."""

    async def set_labels(self, digest: str, labels: Labels, paths: Sequence[str] = ()) -> Labels:
        """Change a blob's labels: all of them, or those that ``paths`` name as ``labels.KEY``.

        :returns: those it has now
        :raises NotFound: there is no such blob
        :raises InvalidArgument: a path or a label is malformed
        """
        ...


@runtime_checkable
class LabelledIngest(Ingest, Protocol):
    """An ingest of such a store."""

    async def commit_labelled(self, size: int, digest: str, labels: Labels) -> BlobInfo:
        """As commit; the blob has ``labels`` then."""
        ...
