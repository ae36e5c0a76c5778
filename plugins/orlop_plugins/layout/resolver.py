"""References with a scheme: ``oci-layout:PATH[:TAG]``, ``oci-archive:PATH[:TAG]``, ``docker-archive:PATH``.

A path is absolute and of the daemon's machine. It ends at the first colon after it.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager, aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

from anyio import to_thread

from orlopd.plugin import ResolveOptions
from orlopd.plugin.errors import InvalidArgument, NotFound, Unavailable
from orlopd.plugin.references import parse_reference
from orlopd.plugin.values import Descriptor

_DEFAULTS = ResolveOptions()
_PIECE = 1 << 20
_NOT_A_NAME = re.compile(r"[^a-z0-9]+")


class Place(Protocol):
    """An opened directory or archive."""

    def size(self, digest: str) -> int | None:
        """A blob's size, None where there is none."""
        ...

    def read(self, digest: str, offset: int, size: int) -> bytes:
        """Bytes of a blob."""
        ...


@dataclass(frozen=True, slots=True)
class Opened:
    """What a reference leads to. ``name`` is a full reference, or "" where the place gives none;
    ``listed`` is all that it lists."""

    place: Place
    target: Descriptor
    name: str = ""
    listed: tuple[Descriptor, ...] = ()


Open = Callable[[str, str], AbstractContextManager[Opened]]
"""Opens a path and finds what is asked for in it; runs in a thread."""


class FileResolver:
    """See :class:`orlopd.plugin.Resolver`.

    :param scheme: what references begin with, before the colon
    """

    def __init__(self, scheme: str, open_place: Open) -> None:
        self._scheme = scheme
        self._open = open_place

    def handles(self, reference: str) -> bool:
        """See :class:`orlopd.plugin.Resolver`."""
        return reference.startswith(f"{self._scheme}:")

    @asynccontextmanager
    async def resolve(
        self, reference: str, options: ResolveOptions = _DEFAULTS
    ) -> AsyncGenerator[FileSource]:
        """See :class:`orlopd.plugin.Resolver`."""
        async with self.opened(reference) as (opened, path, wanted):
            yield FileSource(opened, path, wanted)

    def split(self, reference: str) -> tuple[str, str]:
        """A reference's path, and what is asked for there. :raises InvalidArgument: it is malformed"""
        path, _, wanted = reference.removeprefix(f"{self._scheme}:").partition(":")
        if not path.startswith("/") or "\0" in path:
            raise InvalidArgument(
                f"{reference[:160]!r} names no absolute path",
                reason="MALFORMED_REFERENCE",
                hint=f"want {self._scheme}:/PATH[:TAG]; the path is one of the daemon's machine",
            )
        return path, wanted

    @asynccontextmanager
    async def opened(self, reference: str) -> AsyncGenerator[tuple[Opened, str, str]]:
        """What a reference leads to, its path, and what was asked for there. Errors: as :meth:`resolve`."""
        path, wanted = self.split(reference)
        manager = self._open(path, wanted)
        try:
            opened = await to_thread.run_sync(manager.__enter__)
        except FileNotFoundError:
            raise NotFound(f"there is no {path} on the daemon's machine", resource=f"file {path}") from None
        except OSError as error:
            said = (error.strerror or str(error)).lower()
            raise Unavailable(f"{path} cannot be read: {said}", resource=f"file {path}") from None
        try:
            yield opened, path, wanted
        finally:
            manager.__exit__(None, None, None)


class FileSource:
    """See :class:`orlopd.plugin.Source`."""

    def __init__(self, opened: Opened, path: str, wanted: str) -> None:
        self._opened = opened
        self._path = path
        self._name = opened.name or _name_after(path, wanted)

    @property
    def name(self) -> str:
        """See :class:`orlopd.plugin.Source`. The place's own word, else one made of the file's name."""
        return self._name

    @property
    def descriptor(self) -> Descriptor:
        """See :class:`orlopd.plugin.Source`."""
        return self._opened.target

    def fetch(
        self, descriptor: Descriptor, offset: int = 0
    ) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """See :class:`orlopd.plugin.Source`."""
        return aclosing(self._pieces(descriptor, offset))

    async def _pieces(self, descriptor: Descriptor, offset: int) -> AsyncGenerator[bytes]:
        place, digest = self._opened.place, descriptor.digest
        try:
            size = await to_thread.run_sync(place.size, digest)
            if size is None:
                raise NotFound(f"there is no {digest} in {self._path}", resource=f"blob {digest}")
            at = offset
            while at < size:
                piece = await to_thread.run_sync(place.read, digest, at, min(_PIECE, size - at))
                if not piece:
                    return
                at += len(piece)
                yield piece
        except OSError as error:
            said = (error.strerror or str(error)).lower()
            raise Unavailable(f"{self._path} cannot be read: {said}", resource=f"blob {digest}") from None


def full_name(annotations: Mapping[str, str]) -> str:
    """The full reference that an entry of an index gives, or ""."""
    for key in ("io.containerd.image.name", "org.opencontainers.image.ref.name"):
        said = annotations.get(key, "")
        if "/" in said:
            try:
                return parse_reference(said).name
            except InvalidArgument:
                continue
    return ""


def choose(path: str, wanted: str, names: Iterator[tuple[str, tuple[str, ...]]]) -> int:
    """The number of the entry that is meant: the one of this name, or the only one.

    :param names: a label for each entry, and what it may be called
    :raises NotFound: none is, or nothing was named and there are several
    """
    found = list(names)
    for number, (_, called) in enumerate(found):
        if wanted and wanted in called:
            return number
    if not wanted and len(found) == 1:
        return 0
    listed = ", ".join(label for label, _ in found[:8]) or "nothing"
    what = f"{wanted[:160]!r} is not in {path}" if wanted else f"{path} has several images"
    raise NotFound(f"{what}; there is: {listed}", resource=f"file {path}", hint="append :TAG to the path")


def _name_after(path: str, wanted: str) -> str:
    if "/" in wanted:
        try:
            return parse_reference(wanted).name
        except InvalidArgument:
            pass
    stem = path.rstrip("/").rpartition("/")[2].removesuffix(".tar")
    name = _NOT_A_NAME.sub("-", stem.lower()).strip("-") or "image"
    try:
        return parse_reference(f"localhost/{name[:120]}:{wanted or 'latest'}").name
    except InvalidArgument:
        return f"localhost/{name[:120]}:latest"
