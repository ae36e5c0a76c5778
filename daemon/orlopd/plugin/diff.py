"""The contract of a differ: layers to files and files to layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

from .content import BlobReader, Ingest
from .values import Descriptor, Mount

Progress = Callable[[int], None]
"""Called now and then with the bytes done so far."""


class Differ(Protocol):
    """Applies layers of some media types, and writes them."""

    def handles(self, media_type: str) -> bool:
        """Whether this differ can apply (and write) ``media_type``."""
        ...

    async def apply(
        self,
        layer: Descriptor,
        blob: BlobReader,
        mounts: Sequence[Mount],
        *,
        progress: Progress | None = None,
    ) -> Descriptor:
        """Unpack ``blob`` over what ``mounts`` show; whiteouts hide what lies below.

        :param layer: without digest and size where they are not known: what a processor gives. The blob is
            then read in order
        :returns: the descriptor of the uncompressed layer, whose digest is the diff id
        :raises InvalidArgument: not a layer of this media type, or one that tries to leave its root
        :raises ResourceExhausted: a limit on entries, size or ratio was met
        :raises DataLoss: the blob is truncated or corrupt
        """
        ...

    async def diff(
        self,
        lower: Sequence[Mount],
        upper: Sequence[Mount],
        media_type: str,
        sink: Ingest,
        *,
        newest: int | None = None,
    ) -> str:
        """Write the layer that turns ``lower`` into ``upper`` to ``sink`` without committing it.

        Deterministic: the same trees give the same bytes.

        :param newest: in nanoseconds since 1970; what was changed later is written as if it was then
            (reproducible-builds.org: SOURCE_DATE_EPOCH)
        :returns: the diff id, the digest of the uncompressed layer
        """
        ...

    async def unpack_tar(
        self, blob: BlobReader, mounts: Sequence[Mount], *, uids: str = "", gids: str = ""
    ) -> int:
        """Unpack a plain or compressed tar over ``mounts`` without whiteouts' meaning.

        :param uids: where the tar's user ids are those of a user namespace: what they are for the machine, as
            ``INSIDE:OUTSIDE:SIZE,…``
        :param gids: the same for groups
        :returns: bytes of files written
        :raises InvalidArgument: not a tar, one that tries to leave its root, or an id that the maps have not
        """
        ...


@runtime_checkable
class ParticularDiffer(Differ, Protocol):
    """A differ for some mounts only, such as those of one snapshotter that wants layers in a form of its own.

    It is asked ahead of all others, and for :meth:`apply` only: ``diff`` and ``unpack_tar`` are for differs
    that are there for any mounts, and it raises Unimplemented there.
    """

    async def suits(self, mounts: Sequence[Mount]) -> bool:
        """Whether a layer that it handles is to be applied to ``mounts`` by this differ. Changes nothing."""
        ...
