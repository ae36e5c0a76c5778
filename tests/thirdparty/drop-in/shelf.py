"""A resolver in a page: what is said to be of the host shelf.invalid lies in a folder."""

import json
from contextlib import aclosing, asynccontextmanager

import anyio

from orlopd.plugin import Config, Provider, Pushed, ResolveOptions, hookimpl
from orlopd.plugin.errors import NotFound
from orlopd.plugin.references import parse_reference
from orlopd.plugin.values import Descriptor

HOST = "shelf.invalid/"
DEFAULTS = ResolveOptions()


class ShelfConfig(Config):
    folder: str = "/nowhere"


class Place:
    def __init__(self, folder, reference):
        self.name = parse_reference(reference).name
        self.descriptor = None
        self._folder = folder
        self._label = folder / self.name.replace("/", "+")

    async def look(self):
        try:
            self.descriptor = Descriptor(**json.loads(await self._label.read_text()))
        except FileNotFoundError:
            raise NotFound(f"no {self.name} on the shelf") from None

    def fetch(self, descriptor, offset=0):
        return aclosing(self._pieces(descriptor, offset))

    async def _pieces(self, descriptor, offset):
        async with await anyio.open_file(self._folder / descriptor.digest, "rb") as file:
            await file.seek(offset)
            while piece := await file.read(1 << 20):
                yield piece

    async def exists(self, descriptor):
        return await (self._folder / descriptor.digest).exists()

    async def push(self, descriptor, open_content, *, sources=(), sent=lambda offset: None):
        if await self.exists(descriptor):
            return Pushed.EXISTS
        async with (
            await anyio.open_file(self._folder / descriptor.digest, "wb") as file,
            open_content(0) as pieces,
        ):
            async for piece in pieces:
                await file.write(piece)
                sent(await file.tell())
        return Pushed.SENT

    async def finish(self, descriptor, open_content):
        await self.push(descriptor, open_content)
        words = {"media_type": descriptor.media_type, "digest": descriptor.digest, "size": descriptor.size}
        await self._label.write_text(json.dumps(words))
        return Pushed.SENT


class Shelf:
    def __init__(self, folder):
        self._folder = anyio.Path(folder)

    def handles(self, reference):
        return reference.startswith(HOST)

    @asynccontextmanager
    async def resolve(self, reference, options=DEFAULTS):
        place = Place(self._folder, reference)
        await place.look()
        yield place

    @asynccontextmanager
    async def push(self, reference, options=DEFAULTS):
        yield Place(self._folder, reference)


@hookimpl
def orlop_resolvers():
    yield Provider("shelf", lambda context: Shelf(context.config.folder), config=ShelfConfig)
