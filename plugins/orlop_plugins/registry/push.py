"""Pushing: content to a repository of a registry, and the reference onto it.

Specification: OCI distribution-spec, "Push"; blobs go as Docker's and OCI's tools send them.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Callable, Sequence

import anyio
import httpx

from orlopd.plugin import Pushed
from orlopd.plugin.errors import (
    DataLoss,
    DeadlineExceeded,
    InvalidArgument,
    OrlopError,
    Unavailable,
)
from orlopd.plugin.resolver import OpenContent
from orlopd.plugin.values import Descriptor, check_digest

from . import answers
from .access import MANIFEST_LIMIT, MANIFEST_TYPES, Access
from .auth import Authorizer
from .referrers import add_referrer, note_referrer
from .transport import Ask

_RANGE = re.compile(r"(?:bytes=)?0-(\d{1,19})")
_GONE = frozenset({404, 410, 416})
_HERE = frozenset({200, 404})
Permit = Callable[[Access, Sequence[str]], Authorizer]
"""Makes an authorizer for a repository to write to, and others of its host to read from."""


class RegistryDestination:
    """A reference at a registry. See :class:`orlopd.plugin.Destination`.

    :param ways: places to push to; the first that can be reached is used
    """

    def __init__(self, ways: Sequence[Access], permit: Permit) -> None:
        self._ways = ways
        self._way: Access | None = None
        self._choosing = anyio.Lock()
        self._reference = ways[0].reference
        self._permit = permit
        self._mounting: dict[str, Authorizer] = {}

    @property
    def name(self) -> str:
        """See :class:`orlopd.plugin.Destination`."""
        return self._reference.name

    async def exists(self, descriptor: Descriptor) -> bool:
        """See :class:`orlopd.plugin.Destination`."""
        way = await self._chosen()
        return await self._is_here(way, descriptor, descriptor.digest)

    async def push(
        self,
        descriptor: Descriptor,
        open_content: OpenContent,
        *,
        sources: Sequence[str] = (),
        sent: Callable[[int], None] = lambda offset: None,
    ) -> Pushed:
        """See :class:`orlopd.plugin.Destination`."""
        way = await self._chosen()
        if await self._is_here(way, descriptor, descriptor.digest):
            await self._note(way, descriptor, open_content)
            return Pushed.EXISTS
        if descriptor.media_type in MANIFEST_TYPES:
            await self._put_manifest(way, descriptor, descriptor.digest, open_content)
            sent(descriptor.size)
            return Pushed.SENT
        location = None
        for source in sources:
            if source != self._reference.path:
                mounted, location = await self._mount(way, descriptor, source)
                if mounted:
                    return Pushed.MOUNTED
        await _Upload(way, descriptor, open_content, sent).run(location)
        return Pushed.SENT

    async def finish(self, descriptor: Descriptor, open_content: OpenContent) -> Pushed:
        """See :class:`orlopd.plugin.Destination`."""
        way = await self._chosen()
        asked = self._reference.digest
        if asked and asked != descriptor.digest:
            raise InvalidArgument(
                f"{descriptor.digest} cannot be pushed as {self.name}, which names another digest",
                reason="DIGEST_MISMATCH",
                resource=f"image {self.name}",
            )
        name = self._reference.tag or descriptor.digest
        if await self._is_here(way, descriptor, name):
            await self._note(way, descriptor, open_content)
            return Pushed.EXISTS
        await self._put_manifest(way, descriptor, name, open_content)
        return Pushed.SENT

    async def _chosen(self) -> Access:
        """The place to push to: on loopback, plain HTTP or TLS, whichever is spoken there."""
        async with self._choosing:
            if self._way is None:
                refusal: Unavailable | None = None
                for way in self._ways if len(self._ways) > 1 else ():
                    ask = Ask(
                        "GET",
                        way.endpoint.base,
                        f"image {self.name}",
                        private=way.headers,
                        accept=lambda status: status < 500,
                    )
                    try:
                        async with way.transport.open(ask) as response:
                            if response.status_code not in (400, 404):
                                self._way = way
                                break
                    except Unavailable as error:
                        if refusal is None or error.reason == answers.UNTRUSTED:
                            refusal = error
                if self._way is None:
                    if refusal is not None:
                        raise refusal
                    self._way = self._ways[0]
        return self._way

    async def _is_here(self, way: Access, descriptor: Descriptor, name: str) -> bool:
        kind = "manifests" if descriptor.media_type in MANIFEST_TYPES else "blobs"
        what = f"{descriptor.digest} of {self.name}"
        ask = way.ask("HEAD", f"{kind}/{name}", what, accept=lambda status: status in _HERE)
        async with way.transport.open(ask) as response:
            if response.status_code != 200:
                return False
            said = response.headers.get("docker-content-digest", "")
            # A tag may point elsewhere; one whose digest is not told is written again.
            return said == descriptor.digest if name != descriptor.digest else said in ("", descriptor.digest)

    async def _put_manifest(
        self, way: Access, descriptor: Descriptor, name: str, open_content: OpenContent
    ) -> None:
        data = await _whole(descriptor, open_content)

        async def body() -> AsyncGenerator[bytes]:
            yield data

        ask = way.ask(
            "PUT",
            f"manifests/{name}",
            f"a place for {descriptor.digest} as {self.name}",
            headers={"Content-Type": descriptor.media_type},
            content=body,
            length=len(data),
            patience=way.transport.config.commit_timeout,
            accept=lambda status: status in (200, 201, 202) or status in (400, 413, 422),
        )
        async with way.transport.open(ask) as response:
            if response.status_code >= 400:
                said = await way.transport.explain(response, way.authorizer)
                raise InvalidArgument(
                    f"registry {self._reference.host} refuses manifest {descriptor.digest} of {self.name} "
                    f"({response.status_code}){said}",
                    reason="MANIFEST_REFUSED",
                    resource=f"image {self.name}",
                )
            told = response.headers.get("docker-content-digest", "")
            if told and told != descriptor.digest:
                raise DataLoss(
                    f"registry {self._reference.host} was given {descriptor.digest} and says it has {told}",
                    reason="DIGEST_MISMATCH",
                    resource=f"image {self.name}",
                )
            lists_referrers = "oci-subject" in response.headers
        if not lists_referrers:
            await add_referrer(way, descriptor, data)

    async def _note(self, way: Access, descriptor: Descriptor, open_content: OpenContent) -> None:
        if descriptor.media_type in MANIFEST_TYPES:
            await note_referrer(way, descriptor, await _whole(descriptor, open_content))

    async def _mount(self, way: Access, descriptor: Descriptor, source: str) -> tuple[bool, httpx.URL | None]:
        """Ask that a blob be taken over from another repository: whether it was, or where to upload it."""
        if source not in self._mounting:
            self._mounting[source] = self._permit(way, [source])
        ask = way.ask(
            "POST",
            "blobs/uploads/",
            f"a place for {descriptor.digest} in {self.name}",
            authorizer=self._mounting[source],
            accept=lambda status: status < 500 and status not in (401, 429),
        )
        url = ask.url.copy_merge_params({"mount": check_digest(descriptor.digest), "from": source})
        ask = Ask(
            ask.method,
            url,
            ask.what,
            headers=ask.headers,
            private=ask.private,
            authorizer=ask.authorizer,
            accept=ask.accept,
        )
        try:
            async with way.transport.open(ask) as response:
                if response.status_code == 201:
                    return True, None
                return False, _location(way, response) if response.status_code == 202 else None
        except OrlopError:
            return False, None  # nobody has to allow it; the bytes are sent then


class _Upload:
    """One blob on its way to a registry, taken up again where it breaks."""

    def __init__(
        self, way: Access, descriptor: Descriptor, open_content: OpenContent, sent: Callable[[int], None]
    ) -> None:
        self._way = way
        self._transport = way.transport
        self._descriptor = descriptor
        self._open_content = open_content
        self._sent = sent
        self._what = f"a place for {descriptor.digest} in {way.reference.name}"
        self._chunk = way.transport.config.upload_chunk

    async def run(self, location: httpx.URL | None) -> None:
        """Send all of it. :raises OrlopError: also after some tries it did not arrive"""
        failures, goodbyes, done = 0, 0, 0
        while True:
            before = done
            try:
                if location is None:
                    location, done = await self._begin(), 0
                while done < self._descriptor.size:
                    location, done = await self._piece(location, done)
                await self._commit(location)
            except (Unavailable, DeadlineExceeded) as error:
                if error.reason == answers.GOODBYE and goodbyes < answers.MOST_GOODBYES:
                    goodbyes += 1
                else:
                    failures = 0 if done > before else failures + 1
                if failures > self._transport.config.retries:
                    raise
                if error.reason in ("RATE_LIMITED", "UNREACHABLE", answers.UNTRUSTED):
                    raise  # the transport has waited as long as it may
                await anyio.sleep(self._transport.pause(failures))
                if location is not None:
                    location, done = await self._resume(location)
            else:
                return

    async def _begin(self) -> httpx.URL:
        ask = self._way.ask("POST", "blobs/uploads/", self._what)
        async with self._transport.open(ask) as response:
            location = _location(self._way, response)
            least = response.headers.get("oci-chunk-min-length", "")
            if self._chunk and least.isascii() and least.isdigit() and len(least) < 12:
                self._chunk = max(self._chunk, int(least))
            return location

    async def _piece(self, location: httpx.URL, start: int) -> tuple[httpx.URL, int]:
        size = self._descriptor.size
        end = min(size, start + self._chunk) if self._chunk else size
        headers = {"Content-Type": "application/octet-stream"}
        if start or end < size:
            headers["Content-Range"] = f"{start}-{end - 1}"
        ask = self._way.ask(
            "PATCH",
            str(location),
            self._what,
            headers=headers,
            content=lambda: self._bytes(start, end),
            length=end - start,
            tries=1,  # what has arrived is asked first
            patience=self._transport.config.commit_timeout,
        )
        async with self._transport.open(ask) as response:
            said = _RANGE.fullmatch(response.headers.get("range", "").strip())
            arrived = int(said[1]) + 1 if said else end
            return _location(self._way, response), arrived if start < arrived <= end else end

    async def _bytes(self, start: int, end: int) -> AsyncGenerator[bytes]:
        at = start
        async with self._open_content(start) as pieces:
            async for piece in pieces:
                part = piece[: end - at]
                if part:
                    yield part
                    at += len(part)
                    self._sent(at)
                if at >= end:
                    return
        raise DataLoss(
            f"{self._descriptor.digest} ends after {at} of {self._descriptor.size} bytes",
            reason="SIZE_MISMATCH",
            resource=f"blob {self._descriptor.digest}",
        )

    async def _commit(self, location: httpx.URL) -> None:
        url = location.copy_merge_params({"digest": check_digest(self._descriptor.digest)})
        ask = self._way.ask(
            "PUT",
            str(url),
            self._what,
            headers={"Content-Length": "0"},
            tries=1,
            patience=self._transport.config.commit_timeout,
            accept=lambda status: status in (200, 201, 202, 204, 400),
        )
        async with self._transport.open(ask) as response:
            if response.status_code == 400:
                said = await self._transport.explain(response, self._way.authorizer)
                raise Unavailable(
                    f"registry {self._way.reference.host} did not take {self._descriptor.digest}{said}",
                    reason="BLOB_REFUSED",
                    resource=f"blob {self._descriptor.digest}",
                )

    async def _resume(self, location: httpx.URL) -> tuple[httpx.URL | None, int]:
        """Where an upload that broke goes on; from the beginning where the registry does not know it."""
        ask = self._way.ask("GET", str(location), self._what, accept=lambda status: True)
        try:
            async with self._transport.open(ask) as response:
                if response.status_code not in (204, 202, 200):
                    return None, 0
                said = _RANGE.fullmatch(response.headers.get("range", "").strip())
                if said is None or int(said[1]) >= self._descriptor.size:
                    return None, 0
                # "0-0" is one byte, or, as some registries count, none.
                arrived = int(said[1]) + 1 if int(said[1]) else 0
                return (_location(self._way, response), arrived) if arrived else (None, 0)
        except OrlopError:
            return None, 0


def _location(way: Access, response: httpx.Response) -> httpx.URL:
    """Where an upload goes on.

    :raises Unavailable: the answer does not say, or sends us to plain HTTP
    """
    about = {"resource": f"registry {way.reference.host}"}
    here = response.request.url
    try:
        url = here.join(response.headers.get("location", ""))
    except httpx.InvalidURL:
        url = here
    if "location" not in response.headers or url.scheme not in ("http", "https") or url.userinfo:
        raise Unavailable(
            f"registry {way.reference.host} takes an upload but does not say where it goes on", **about
        )
    if here.scheme == "https" and url.scheme == "http":
        if url.host != here.host:
            raise Unavailable(
                f"registry {way.reference.host} sends an upload to {answers.where(url)}, without TLS", **about
            )
        # A registry behind something that does TLS for it, and that has not told it.
        url = url.copy_with(scheme="https", port=here.port)
    return url


async def _whole(descriptor: Descriptor, open_content: OpenContent) -> bytes:
    if descriptor.size > MANIFEST_LIMIT:
        raise InvalidArgument(
            f"manifest {descriptor.digest} has {descriptor.size} bytes; the limit is {MANIFEST_LIMIT}",
            reason="DOCUMENT_TOO_LARGE",
        )
    data = bytearray()
    async with open_content(0) as pieces:
        async for piece in pieces:
            data += piece
    return bytes(data)
