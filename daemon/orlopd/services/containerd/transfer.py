"""containerd.services.transfer.v1, and streaming.v1, which it takes its streams from."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import ExitStack
from typing import Any

import anyio
from google.protobuf import any_pb2, empty_pb2

from orlop_protos.containerd.services.streaming.v1 import streaming_pb2, streaming_pb2_grpc
from orlop_protos.containerd.services.transfer.v1 import transfer_pb2, transfer_pb2_grpc
from orlop_protos.containerd.types.transfer import (
    imagestore_pb2,
    importexport_pb2,
    registry_pb2,
)
from orlopd.core.core import Core
from orlopd.core.export import ExportOptions
from orlopd.core.flow import task_group
from orlopd.core.scope import Scope
from orlopd.core.transfer import ExtraName, StoreEnd, Unpacking
from orlopd.plugin import Credentials, ResolveOptions
from orlopd.plugin.errors import DeadlineExceeded, InvalidArgument, Unimplemented
from orlopd.plugin.resolver import CredentialsLookup
from orlopd.plugin.values import Image, Platform
from orlopd.services.engine.progress import Relay
from orlopd.services.scope import scope_of

from .streaming import Stream, Streams, received, send_all, unpacked
from .transfer_progress import Teller

_KINDS: tuple[Any, ...] = (
    registry_pb2.OCIRegistry,
    imagestore_pb2.ImageStore,
    importexport_pb2.ImageImportStream,
    importexport_pb2.ImageExportStream,
)
_AUTH_SECONDS = 60.0

# Streaming methods are coroutines that write; the stubs know generators alone.
_StreamingBase: Any = streaming_pb2_grpc.StreamingServicer


class _StreamingService(_StreamingBase):
    def __init__(self, streams: Streams) -> None:
        self._streams = streams

    async def Stream(self, requests: AsyncIterator[any_pb2.Any], context: Any) -> None:
        await self._streams.serve(requests, context)


class TransferService(transfer_pb2_grpc.TransferServicer):
    """Moves images between ends of four kinds, as far as containerd pairs them."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._streams = Streams()

    def register(self, server: Any) -> Sequence[str]:
        transfer_pb2_grpc.add_TransferServicer_to_server(self, server)
        streaming_pb2_grpc.add_StreamingServicer_to_server(_StreamingService(self._streams), server)
        return [
            transfer_pb2.DESCRIPTOR.services_by_name["Transfer"].full_name,
            streaming_pb2.DESCRIPTOR.services_by_name["Streaming"].full_name,
        ]

    async def Transfer(self, request: Any, context: Any) -> empty_pb2.Empty:
        scope = scope_of(context)
        source, destination = _end(request.source), _end(request.destination)
        with ExitStack() as stack:
            transfer = _Transfer(self._core, self._streams, scope, stack)
            stream = None
            if request.options.progress_stream:
                stream = transfer.stream(request.options.progress_stream)
            teller = Teller(stream)
            relay = Relay(teller.send)
            async with task_group() as group:
                group.start_soon(relay.run)
                await transfer.run(source, destination, teller, relay)
                await relay.finish()
            await teller.end()
        return empty_pb2.Empty()


class _Transfer:
    """One transfer; its streams are closed when the stack is."""

    def __init__(self, core: Core, streams: Streams, scope: Scope, stack: ExitStack) -> None:
        self._core = core
        self._streams = streams
        self._scope = scope
        self._stack = stack

    def stream(self, id: str) -> Stream:
        """A stream that the client has opened. :raises NotFound: it has not"""
        stream = self._streams.get(self._scope, id)
        self._stack.callback(stream.close)
        return stream

    async def run(self, source: Any, destination: Any, teller: Teller, relay: Relay) -> None:
        """Move. :raises Unimplemented: not between these two"""
        registry, store = registry_pb2.OCIRegistry, imagestore_pb2.ImageStore
        importing, exporting = importexport_pb2.ImageImportStream, importexport_pb2.ImageExportStream
        match (type(source), type(destination)):
            case (kind, other) if (kind, other) == (registry, store):
                await self._pull(source, destination, teller, relay)
            case (kind, other) if (kind, other) == (store, registry):
                await self._push(source, destination, teller, relay)
            case (kind, other) if (kind, other) == (store, store):
                await self._core.transfers.tag(self._scope, _store_end(source), _store_end(destination))
            case (kind, other) if (kind, other) == (importing, store):
                await self._import(source, destination, teller, relay)
            case (kind, other) if (kind, other) == (store, exporting):
                await self._export(source, destination, teller)
            case (kind, other) if (kind, other) == (importing, exporting):
                await send_all(self.stream(destination.stream), received(self.stream(source.stream)))
            case _:
                names = [each.DESCRIPTOR.full_name for each in (source, destination)]
                raise Unimplemented(f"method Transfer not implemented for {names[0]} to {names[1]}")

    async def _pull(self, source: Any, destination: Any, teller: Teller, relay: Relay) -> None:
        called = f"OCI Registry ({source.reference})"
        teller.begin(source.reference, f"Pulling from {called}")
        await teller.say(f"Resolving from {called}")
        options = self._options(source)
        end = _store_end(destination)
        images = await self._core.transfers.pull(self._scope, source.reference, end, options, relay.report)
        teller.finish([*(_saved(image) for image in images), (f"Completed pull from {called}", None)])

    async def _push(self, source: Any, destination: Any, teller: Teller, relay: Relay) -> None:
        called = f"OCI Registry ({destination.reference})"
        teller.begin(source.name, f"Pushing to {called}", pushing=True)
        options = self._options(destination)
        end = _store_end(source)
        image = await self._core.transfers.push(
            self._scope, end, destination.reference, options, relay.report
        )
        teller.finish([("pushed content", image), (f"Completed push to {called}", None)])

    async def _import(self, source: Any, destination: Any, teller: Teller, relay: Relay) -> None:
        if source.force_compress:
            raise Unimplemented("layers are stored as they come: they cannot be compressed by an import")
        await teller.say("Importing")
        data = received(self.stream(source.stream))
        images = await self._core.transfers.import_archive(
            self._scope, data, _store_end(destination), relay.report
        )
        teller.finish([*(_saved(image) for image in images), ("Completed import", None)])

    async def _export(self, source: Any, destination: Any, teller: Teller) -> None:
        await teller.say("Exporting")
        options = ExportOptions(
            kept=tuple(_platform(each) for each in destination.platforms),
            complete=destination.all_platforms,
            docker=not destination.skip_compatibility_manifest,
            foreign=not destination.skip_non_distributable,
        )
        pieces: AsyncGenerator[bytes] = self._core.transfers.export_archive(
            self._scope, _store_end(source), options
        )
        await send_all(self.stream(destination.stream), pieces)
        teller.finish([("Completed export", None)])

    def _options(self, registry: Any) -> ResolveOptions:
        if not registry.reference:
            raise InvalidArgument("the registry end of the transfer has no reference: invalid argument")
        resolver = registry.resolver
        if resolver.logs_stream:
            # Headers hold credentials: what is said to a registry is not shown. The client gets an end.
            self.stream(resolver.logs_stream).close()
        if resolver.default_scheme not in ("", "http", "https"):
            raise InvalidArgument(f"unknown scheme {resolver.default_scheme[:40]!r}: invalid argument")
        lookup = None
        if resolver.auth_stream:
            lookup = _lookup(self.stream(resolver.auth_stream), registry.reference)
        return ResolveOptions(
            plain_http=resolver.default_scheme == "http",
            lookup=lookup,
            headers=dict(resolver.headers),
            host_folder=resolver.host_dir,
        )


def _lookup(stream: Stream, reference: str) -> CredentialsLookup:
    """Asks the client for credentials, one question at a time."""
    lock = anyio.Lock()

    async def ask(host: str, challenges: Sequence[str]) -> Credentials | None:
        question = registry_pb2.AuthRequest(host=host, reference=reference, wwwauthenticate=challenges)
        async with lock:
            await stream.send(question)
            try:
                with anyio.fail_after(_AUTH_SECONDS):
                    message = await stream.receive()
            except TimeoutError:
                raise DeadlineExceeded(
                    f"the client did not say its credentials for {host} in {_AUTH_SECONDS:g} s"
                ) from None
        answer = unpacked(message, registry_pb2.AuthResponse) if message is not None else None
        if answer is None:
            return None
        match answer.authType:
            case registry_pb2.CREDENTIALS:
                return Credentials(answer.username, answer.secret)
            case registry_pb2.REFRESH:
                return Credentials("", answer.secret)
            case registry_pb2.HEADER:
                return Credentials(header=answer.secret)
            case _:
                return None

    return ask


def _end(message: any_pb2.Any) -> Any:
    for kind in _KINDS:
        found = unpacked(message, kind)
        if found is not None:
            return found
    raise Unimplemented(f"method Transfer not implemented for {message.type_url[:200] or 'nothing'}")


def _store_end(message: Any) -> StoreEnd:
    return StoreEnd(
        name=message.name,
        labels=dict(message.labels),
        platforms=tuple(_platform(each) for each in message.platforms),
        extra=tuple(
            ExtraName(
                each.name, each.is_prefix, each.allow_overwrite, each.add_digest, each.skip_named_digest
            )
            for each in message.extra_references
        ),
        unpacks=tuple(
            Unpacking(_platform(each.platform) if each.platform.architecture else None, each.snapshotter)
            for each in message.unpacks
        ),
    )


def _platform(message: Any) -> Platform:
    return Platform(message.os, message.architecture, message.variant, message.os_version)


def _saved(image: Image) -> tuple[str, Image]:
    return "saved", image
