"""Reading an archive of images: every file goes to the content store as it comes, documents to memory."""

from __future__ import annotations

import posixpath
import re
import secrets
from collections.abc import AsyncIterator
from contextlib import aclosing, suppress
from dataclasses import dataclass

import anyio

from orlopd.plugin.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound
from orlopd.plugin.values import check_digest

from .compression import plain
from .content import Content
from .manifests import MAX_DOCUMENT
from .scope import Scope
from .tarstream import Member, TarReader, malformed

_DOCUMENTS = frozenset({"oci-layout", "index.json", "manifest.json"})
_BLOB = re.compile(r"blobs/([a-z0-9]+)/([^/]+)")
_MAX_ENTRIES = 100_000
_MAX_HOPS = 8


@dataclass(frozen=True, slots=True)
class Stored:
    """A file of the archive, now a blob. ``head`` is how it begins."""

    digest: str
    size: int
    head: bytes = b""


class Contents:
    """What an archive held."""

    def __init__(self) -> None:
        self.documents: dict[str, bytes] = {}
        self.files: dict[str, Stored] = {}
        self.links: dict[str, str] = {}

    def file(self, path: str) -> Stored:
        """The file at a path that a document names, through links inside the archive.

        :raises InvalidArgument: there is none
        """
        name = clean(path)
        for _ in range(_MAX_HOPS):
            if name in self.files:
                return self.files[name]
            if name not in self.links:
                break
            name = self.links[name]
        raise malformed(f"its manifest names {path[:120]!r}, which is not in it", "INCOMPLETE_ARCHIVE")


def clean(path: str) -> str:
    """A name as a key: nothing is ever opened by it."""
    return posixpath.normpath("/" + path).lstrip("/")


async def read_archive(content: Content, scope: Scope, stream: AsyncIterator[bytes]) -> Contents:
    """Store what an archive holds; ``scope`` has a lease, which keeps it for now.

    :raises InvalidArgument: it is no archive, is truncated or hostile
    """
    contents = Contents()
    async with aclosing(plain(stream)) as chunks:
        reader = TarReader(chunks, limit=_MAX_ENTRIES)
        while (member := await reader.next()) is not None:
            await _take(content, scope, reader, member, contents)
        # To the stream's very end: a sender is not cut off, and a truncated gzip shows only there.
        async for _ in chunks:
            pass
    return contents


async def _take(
    content: Content, scope: Scope, reader: TarReader, member: Member, contents: Contents
) -> None:
    name = clean(member.name)
    if member.is_symlink:
        contents.links[name] = clean(posixpath.join(posixpath.dirname(name), member.target))
    elif member.is_hard_link:
        contents.links[name] = clean(member.target)
    elif not member.is_file:
        return
    elif name in _DOCUMENTS:
        if name in contents.documents:
            raise malformed(f"it has {name} twice")
        contents.documents[name] = await reader.read(MAX_DOCUMENT)
    elif match := _BLOB.fullmatch(name):
        try:
            digest = check_digest(f"{match[1]}:{match[2]}")
        except InvalidArgument:
            raise malformed(f"it has a blob called {name[:120]!r}, which is no digest") from None
        contents.files[name] = await _store(content, scope, reader, member, digest)
    else:
        contents.files[name] = await _store(content, scope, reader, member, "")


async def _store(content: Content, scope: Scope, reader: TarReader, member: Member, expected: str) -> Stored:
    ref = f"import-{secrets.token_hex(8)}"
    head = b""
    try:
        async with await content.ingest(scope, ref, total=member.size, expected=expected) as ingest:
            async for piece in reader.data():
                head = head or piece[:8]
                if not ingest.shared:
                    await ingest.write(piece)
            digest = expected or await ingest.digest()
            try:
                await ingest.commit(member.size, digest)
            except AlreadyExists:
                pass
            except FailedPrecondition:
                raise malformed(
                    f"its {member.name[:120]!r} does not match: it contains {await ingest.digest()}",
                    "DIGEST_MISMATCH",
                ) from None
        return Stored(digest, member.size, head)
    except AlreadyExists:
        return await _check_existing(content, scope, reader, member, expected)
    except BaseException:
        with anyio.CancelScope(shield=True), suppress(NotFound):
            await content.abort(scope, ref)
        raise


async def _check_existing(
    content: Content, scope: Scope, reader: TarReader, member: Member, digest: str
) -> Stored:
    """What is here was verified when it came; the archive's copy is passed over."""
    head = b""
    async for piece in reader.data():
        head = head or piece[:8]
    info = await content.info(scope, digest)
    if info.size != member.size:
        raise malformed(f"its {member.name[:120]!r} does not match: it has {member.size} bytes")
    return Stored(digest, info.size, head)
