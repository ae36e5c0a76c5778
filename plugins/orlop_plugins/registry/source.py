"""A resolved reference: its descriptor, and its content from wherever it may be had."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing

import anyio
import httpx

from orlopd.plugin.errors import (
    DataLoss,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    OrlopError,
    Unavailable,
)
from orlopd.plugin.values import Descriptor, check_digest

from . import answers
from .access import MANIFEST_LIMIT, MANIFEST_TYPES, Access, media_type_of
from .hosts import is_loopback
from .transport import Ask

_SCHEMA_1 = "application/vnd.docker.distribution.manifest.v1+"
_PROGRESS = 64 << 10
_CONTENT_RANGE = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19}|\*)")
_FOREIGN = (
    "application/vnd.docker.image.rootfs.foreign.",
    "application/vnd.oci.image.layer.nondistributable.",
)


class RegistrySource:
    """A resolved reference. See :class:`orlopd.plugin.Source`.

    :param access: where it is resolved
    :param places: where its content may be, in the order in which to ask
    """

    def __init__(self, access: Access, places: Sequence[Access]) -> None:
        self._access = access
        self._places = list(places)
        self._reference = access.reference
        self._transport = access.transport
        self._descriptor: Descriptor | None = None
        self._body = b""

    @property
    def name(self) -> str:
        """See :class:`orlopd.plugin.Source`."""
        return self._reference.name

    @property
    def descriptor(self) -> Descriptor:
        """See :class:`orlopd.plugin.Source`."""
        assert self._descriptor is not None, "resolve() comes first"
        return self._descriptor

    def avoid(self, places: Sequence[Access]) -> None:
        """Do not ask these places, which do not serve the reference, unless there is no other."""
        rest = [place for place in self._places if place not in places]
        self._places = rest or self._places

    async def resolve(self) -> None:
        """Ask what the reference points at: by HEAD, or by GET where that does not tell everything."""
        ask = self._access.ask(
            "HEAD", f"manifests/{self._reference.object}", self._image, accept=lambda status: True
        )
        async with self._transport.open(ask) as response:
            if response.status_code == 200:
                self._descriptor = self._from_head(response.headers)
        if self._descriptor is None:
            self._descriptor = await self._from_body()

    def fetch(
        self, descriptor: Descriptor, offset: int = 0
    ) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """See :class:`orlopd.plugin.Source`. A broken transfer is taken up where it broke."""
        return aclosing(self._chunks(descriptor, offset))

    @property
    def _image(self) -> str:
        return f"image {self._reference.name}"

    def _from_head(self, headers: httpx.Headers) -> Descriptor | None:
        media_type = media_type_of(headers)
        digest, length = headers.get("docker-content-digest", ""), headers.get("content-length", "")
        try:
            check_digest(digest)
        except InvalidArgument:
            return None
        known = media_type in MANIFEST_TYPES or media_type.startswith(_SCHEMA_1)
        if not known or not (length.isascii() and length.isdigit() and 0 < int(length) <= 1 << 40):
            return None
        self._check_asked(digest)
        return Descriptor(media_type, digest, int(length))

    async def _from_body(self) -> Descriptor:
        ask = self._access.ask("GET", f"manifests/{self._reference.object}", self._image)
        async with self._transport.open(ask) as response:
            body = await self._transport.read(response, MANIFEST_LIMIT, self._image)
            media_type = media_type_of(response.headers)
        if media_type not in MANIFEST_TYPES and not media_type.startswith(_SCHEMA_1):
            media_type = _said_inside(body) or media_type
        algorithm = self._reference.digest.partition(":")[0] or "sha256"
        digest = f"{algorithm}:{hashlib.new(algorithm, body).hexdigest()}"
        self._check_asked(digest)
        self._body = body
        return Descriptor(media_type, digest, len(body))

    def _check_asked(self, digest: str) -> None:
        asked = self._reference.digest
        if asked and asked != digest:
            raise DataLoss(
                f"registry {self._reference.host} was asked for {asked} of {self._reference.repository} "
                f"and gave {digest}",
                reason="DIGEST_MISMATCH",
                resource=self._image,
            )

    async def _chunks(self, descriptor: Descriptor, offset: int) -> AsyncGenerator[bytes]:
        if self._body and descriptor.digest == self.descriptor.digest:
            yield self._body[offset:]
            return
        done, failures, places = offset, 0, self._all_places()
        while done < descriptor.size:
            before, place = done, places[0]
            try:
                async with aclosing(self._once(place, descriptor, done)) as chunks:
                    async for chunk in chunks:
                        done += len(chunk)
                        if done > descriptor.size:
                            raise self._wrong_size(place, descriptor, "more")
                        yield chunk
                problem = self._broken(place, descriptor, done, "it ended")
            except httpx.HTTPError as error:
                how = answers.clean(str(error)) or type(error).__name__
                problem = self._broken(place, descriptor, done, how)
            except DeadlineExceeded as error:
                problem = error
                if done == before and not self._pass_over(places, dead=True):
                    raise
            except OrlopError as error:
                # Of a mirror that has not got it, or has something else; the next place is asked then.
                dead = isinstance(error, Unavailable)
                if done > descriptor.size or not self._pass_over(places, dead=dead):
                    raise
                problem = error
            failures = 0 if done - before >= _PROGRESS else failures + 1
            if done < descriptor.size:
                if failures > self._transport.config.retries:
                    if not self._pass_over(places, dead=True):
                        raise problem
                    failures = 0
                await anyio.sleep(self._transport.pause(failures))

    def _all_places(self) -> list[Access]:
        if not self._places:
            raise FailedPrecondition(
                f"the hosts.toml for {self._reference.host} leaves no place to pull from",
                reason="NO_ENDPOINT",
                resource=self._image,
            )
        return list(self._places)

    def _pass_over(self, places: list[Access], *, dead: bool) -> bool:
        """Go to the next of ``places``, if there is one. A dead one is not asked for other content either."""
        if len(places) < 2:
            return False
        place = places.pop(0)
        if dead and place in self._places and len(self._places) > 1:
            self._places.remove(place)
        return True

    async def _once(self, place: Access, descriptor: Descriptor, start: int) -> AsyncGenerator[bytes]:
        """One transfer from ``start`` on; bytes that a server without ranges sends again are dropped."""
        response = await self._open(place, descriptor, start)
        try:
            skip = self._first_byte(place, response, descriptor, start)
            async with aclosing(place.transport.body(response)) as chunks:
                async for chunk in chunks:
                    if skip >= len(chunk):
                        skip -= len(chunk)
                        continue
                    yield chunk[skip:]
                    skip = 0
        finally:
            with anyio.CancelScope(shield=True):
                await response.aclose()

    async def _open(self, place: Access, descriptor: Descriptor, start: int) -> httpx.Response:
        headers = {"Range": f"bytes={start}-"} if start else {}
        kind = "manifests" if descriptor.media_type in MANIFEST_TYPES else "blobs"
        what = f"{descriptor.digest} of {self._reference.name}"
        try:
            return await place.transport.send(
                place.ask("GET", f"{kind}/{check_digest(descriptor.digest)}", what, headers=headers)
            )
        except NotFound:
            foreign = descriptor.media_type.startswith(_FOREIGN)
            urls = [url for url in descriptor.urls if foreign and self._is_public(url)]
            if not urls:
                raise
            return await self._foreign(urls, what, headers)

    async def _foreign(self, urls: Sequence[str], what: str, headers: Mapping[str, str]) -> httpx.Response:
        """A layer that lives elsewhere. The image chose the place: nothing of ours is shown there."""
        problem: OrlopError | None = None
        for url in map(httpx.URL, urls):
            ask = Ask("GET", url, what, headers=headers, whose=f"'s foreign layers at {url.host}")
            try:
                return await self._transport.send(ask)
            except OrlopError as error:
                problem = error
        assert problem is not None
        raise problem

    @staticmethod
    def _is_public(text: str) -> bool:
        try:
            url = httpx.URL(text)
        except httpx.InvalidURL:
            return False
        return url.scheme == "https" and bool(url.host) and not url.userinfo and not is_loopback(url.host)

    def _first_byte(self, place: Access, response: httpx.Response, descriptor: Descriptor, start: int) -> int:
        """How many bytes of the body come before ``start``.

        :raises DataLoss: the server says another size than the manifest
        """
        length = response.headers.get("content-length", "")
        if response.status_code == 206:
            match = _CONTENT_RANGE.fullmatch(response.headers.get("content-range", "").strip())
            if not match or int(match[1]) != start or match[3] not in ("*", str(descriptor.size)):
                raise self._wrong_size(place, descriptor, "another range")
            return 0
        if length.isascii() and length.isdigit() and int(length) != descriptor.size:
            raise self._wrong_size(place, descriptor, f"{length} bytes")
        return start

    def _wrong_size(self, place: Access, descriptor: Descriptor, what: str) -> DataLoss:
        return DataLoss(
            f"registry {place.transport.host} sends {what} for {descriptor.digest}; "
            f"the image says {descriptor.size} bytes",
            reason="SIZE_MISMATCH",
            resource=self._image,
        )

    def _broken(self, place: Access, descriptor: Descriptor, done: int, how: str) -> Unavailable:
        return Unavailable(
            f"registry {place.transport.host} breaks off {descriptor.digest} after {done} of "
            f"{descriptor.size} bytes: {how}",
            reason="TRUNCATED",
            resource=self._image,
        )


def _said_inside(body: bytes) -> str:
    """The media type that a manifest states itself, for registries that serve it as plain JSON."""
    try:
        said = json.loads(body).get("mediaType", "")
    except (ValueError, RecursionError, AttributeError):
        return ""
    return said if isinstance(said, str) else ""
