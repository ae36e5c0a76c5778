"""A client of containerd's transfer service, for tests of it."""

from __future__ import annotations

from typing import Any

import grpc
import grpc.aio
from google.protobuf import any_pb2

from orlop_protos.containerd.services.images.v1 import images_pb2, images_pb2_grpc
from orlop_protos.containerd.services.leases.v1 import leases_pb2, leases_pb2_grpc
from orlop_protos.containerd.services.streaming.v1 import streaming_pb2, streaming_pb2_grpc
from orlop_protos.containerd.services.transfer.v1 import transfer_pb2, transfer_pb2_grpc
from orlop_protos.containerd.types import platform_pb2
from orlop_protos.containerd.types.transfer import (
    imagestore_pb2,
    progress_pb2,
    registry_pb2,
)
from orlop_protos.containerd.types.transfer import (
    streaming_pb2 as frames_pb2,
)
from tests.support.images import ARCHITECTURE

PLATFORM = platform_pb2.Platform(os="linux", architecture=ARCHITECTURE)
WINDOW = 64 << 10


def pack(message: Any) -> any_pb2.Any:
    return any_pb2.Any(type_url=message.DESCRIPTOR.full_name, value=message.SerializeToString())


class Client:
    """Stubs over one channel, and the streams it has opened."""

    def __init__(self, channel: Any, namespace: str) -> None:
        self.metadata = (("containerd-namespace", namespace),)
        self.streaming: Any = streaming_pb2_grpc.StreamingStub(channel)
        self.transfers: Any = transfer_pb2_grpc.TransferStub(channel)
        self.images: Any = images_pb2_grpc.ImagesStub(channel)
        self.leases: Any = leases_pb2_grpc.LeasesStub(channel)
        self.calls: list[Any] = []

    async def open(self, id: str) -> Any:
        """A stream of this id that the daemon has acknowledged."""
        call = self.streaming.Stream(metadata=self.metadata)
        self.calls.append(call)
        await call.write(pack(streaming_pb2.StreamInit(id=id)))
        acknowledged = await call.read()
        assert acknowledged.type_url.endswith("google.protobuf.Empty")
        return call

    async def transfer(self, source: Any, destination: Any, progress: str = "") -> None:
        options = transfer_pb2.TransferOptions(progress_stream=progress)
        request = transfer_pb2.TransferRequest(
            source=pack(source), destination=pack(destination), options=options
        )
        await self.transfers.Transfer(request, metadata=self.metadata, timeout=60)

    async def target(self, name: str) -> Any:
        request = images_pb2.GetImageRequest(name=name)
        return (await self.images.Get(request, metadata=self.metadata)).image

    async def names(self) -> list[str]:
        listed = await self.images.List(images_pb2.ListImagesRequest(), metadata=self.metadata)
        return [image.name for image in listed.images]

    async def no_leases(self) -> bool:
        listed = await self.leases.List(leases_pb2.ListRequest(), metadata=self.metadata)
        return not listed.leases


async def receive_all(call: Any, total: int = 0) -> bytes:
    """As containerd's clients receive: a window when there is none, until the end.

    :param total: how much will come; where that is not known, one window is for all of it. The daemon ends
        the stream when it has sent everything, and a write to a stream that has just ended breaks grpc.aio's
        call, which loses what is still to be read: so no window is given that is not needed.
    """
    data, window, given = bytearray(), 0, 0
    while True:
        if window < WINDOW and (given < total or not given):
            update = WINDOW if total else (1 << 31) - 1
            await call.write(pack(frames_pb2.WindowUpdate(update=update)))
            window, given = window + update, given + update
        message = await call.read()
        if message is grpc.aio.EOF:
            return bytes(data)
        frame = frames_pb2.Data.FromString(message.value)
        assert len(frame.data) <= window, "more came than the window allows"
        data += frame.data
        window -= len(frame.data)


async def send_all(call: Any, data: bytes, *, end: bool = True) -> int:
    """As containerd's clients send: never beyond the window. The largest window seen."""
    window = most = start = 0
    while start < len(data):
        while window <= 0:
            message = await call.read()
            assert message.type_url.endswith("WindowUpdate")
            window += frames_pb2.WindowUpdate.FromString(message.value).update
            most = max(most, window)
        part = data[start : start + min(window, 32 << 10)]
        await call.write(pack(frames_pb2.Data(data=part)))
        start, window = start + len(part), window - len(part)
    if end:
        await call.done_writing()
    return most


async def progress_of(call: Any) -> list[progress_pb2.Progress]:
    found: list[progress_pb2.Progress] = []
    while (message := await call.read()) is not grpc.aio.EOF:
        found.append(progress_pb2.Progress.FromString(message.value))
    return found


def store(name: str = "", **more: Any) -> imagestore_pb2.ImageStore:
    return imagestore_pb2.ImageStore(name=name, **more)


def at(reference: str, **resolver: Any) -> registry_pb2.OCIRegistry:
    return registry_pb2.OCIRegistry(reference=reference, resolver=registry_pb2.RegistryResolver(**resolver))
