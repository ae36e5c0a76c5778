"""The one client program that measures us and containerd alike: blocking gRPC calls, nothing else."""

from __future__ import annotations

import hashlib
import itertools
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Self

import grpc

from orlop_protos.containerd.services.containers.v1 import containers_pb2, containers_pb2_grpc
from orlop_protos.containerd.services.content.v1 import content_pb2, content_pb2_grpc
from orlop_protos.containerd.services.images.v1 import images_pb2, images_pb2_grpc
from orlop_protos.containerd.services.leases.v1 import leases_pb2, leases_pb2_grpc

MIB = 1 << 20
CHUNK = MIB
"""What containerd's own client copies at a time."""

NAMESPACE = "bench"
_MESSAGE_LIMIT = 64 * MIB
_SPEC_TYPE = "types.containerd.io/opencontainers/runtime-spec/1/Spec"


class Blob:
    """A blob of ``size`` bytes (a multiple of :data:`CHUNK`), each one different; made before it is timed."""

    _noise = random.Random(1).randbytes(CHUNK)
    _numbers = itertools.count()

    def __init__(self, size: int) -> None:
        self.size = size
        self._number = next(self._numbers)
        digest = hashlib.sha256()
        for chunk in self.chunks():
            digest.update(chunk)
        self.digest = f"sha256:{digest.hexdigest()}"

    def chunks(self) -> Iterator[bytes]:
        """Its bytes."""
        for index in range(self.size // CHUNK):
            yield b"%16d%16d" % (self._number, index) + self._noise[32:]


class Client:
    """A daemon's API, as far as the benchmarks need it."""

    def __init__(self, socket: str | Path, *, lease: str = "") -> None:
        self._socket = socket
        self._channel = grpc.insecure_channel(
            f"unix:{socket}",
            options=[
                ("grpc.max_receive_message_length", _MESSAGE_LIMIT),
                ("grpc.max_send_message_length", _MESSAGE_LIMIT),
                # Clients to two daemons in one process must not share anything.
                ("grpc.use_local_subchannel_pool", 1),
            ],
        )
        self._lease = lease
        self._headers = [("containerd-namespace", NAMESPACE)]
        if lease:
            self._headers.append(("containerd-lease", lease))
        self._content: Any = content_pb2_grpc.ContentStub(self._channel)
        self._images: Any = images_pb2_grpc.ImagesStub(self._channel)
        self._containers: Any = containers_pb2_grpc.ContainersStub(self._channel)
        self._leases: Any = leases_pb2_grpc.LeasesStub(self._channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()

    @contextmanager
    def leased(self, name: str) -> Iterator[Client]:
        """A client whose objects a lease holds; they are collected with it at the end."""
        self._leases.Create(leases_pb2.CreateRequest(id=name), metadata=self._headers)
        try:
            with Client(self._socket, lease=name) as client:
                yield client
        finally:
            self._leases.Delete(leases_pb2.DeleteRequest(id=name, sync=True), metadata=self._headers)

    def write(self, ref: str, blob: Blob) -> None:
        """Send a blob as containerd's client does: each chunk when the one before is acknowledged."""
        requests: SimpleQueue[Any] = SimpleQueue()
        responses = self._content.Write(iter(requests.get, None), metadata=self._headers)

        def exchange(**fields: Any) -> Any:
            requests.put(content_pb2.WriteContentRequest(ref=ref, total=blob.size, **fields))
            return next(responses)

        exchange(action=content_pb2.STAT, expected=blob.digest)
        offset = 0
        for chunk in blob.chunks():
            answer = exchange(action=content_pb2.WRITE, offset=offset, data=chunk)
            offset += len(chunk)
            assert answer.offset == offset, f"at {answer.offset}, not {offset}"
        answer = exchange(action=content_pb2.COMMIT, offset=offset, expected=blob.digest)
        requests.put(None)
        assert answer.digest == blob.digest

    def read(self, digest: str, offset: int = 0, size: int = 0) -> int:
        """Receive a blob and drop it; how many bytes came."""
        request = content_pb2.ReadContentRequest(digest=digest, offset=offset, size=size)
        return sum(len(part.data) for part in self._content.Read(request, metadata=self._headers))

    def create_images(self, count: int) -> None:
        """Make images with a name, a target and a label each; their targets are not there."""
        calls = (
            self._images.Create.future(
                images_pb2.CreateImageRequest(image=_image(number)),
                metadata=self._headers,
            )
            for number in range(count)
        )
        _finish(calls, 32)

    def list_images(self) -> int:
        """List all images; how many there are."""
        return len(self._images.List(images_pb2.ListImagesRequest(), metadata=self._headers).images)

    def stream_containers(self) -> int:
        """List all containers as a stream; how many there are."""
        request = containers_pb2.ListContainersRequest()
        return sum(1 for _ in self._containers.ListStream(request, metadata=self._headers))

    def list_content(self) -> int:
        """List all blobs, which is a stream; how many there are."""
        answers = self._content.List(content_pb2.ListContentRequest(), metadata=self._headers)
        return sum(len(answer.info) for answer in answers)

    def create_containers(self, prefix: str, count: int, *, at_once: int = 1) -> None:
        """Make containers, each with a spec of 2 KiB, so many calls at a time."""
        calls = (
            self._containers.Create.future(
                containers_pb2.CreateContainerRequest(container=_container(f"{prefix}-{number:06}")),
                metadata=self._headers,
            )
            for number in range(count)
        )
        _finish(calls, at_once)

    def delete_containers(self, prefix: str, count: int) -> None:
        """Remove what :meth:`create_containers` made."""
        calls = (
            self._containers.Delete.future(
                containers_pb2.DeleteContainerRequest(id=f"{prefix}-{number:06}"), metadata=self._headers
            )
            for number in range(count)
        )
        _finish(calls, 32)


def _image(number: int) -> Any:
    return {
        "name": f"registry.example/team/image-{number:06}:latest",
        "target": {
            "media_type": "application/vnd.oci.image.index.v1+json",
            "digest": f"sha256:{number:064x}",
            "size": 1234,
        },
        "labels": {"containerd.io/distribution.source": "registry.example"},
    }


def _container(name: str) -> Any:
    return {
        "id": name,
        "image": "registry.example/team/image:latest",
        "runtime": {"name": "io.containerd.runc.v2"},
        "snapshotter": "overlayfs",
        "snapshot_key": name,
        "spec": {"type_url": _SPEC_TYPE, "value": b'{"pad":"%s"}' % (b"x" * 2038)},
        "labels": {"bench": "true"},
    }


def _finish(calls: Iterator[Any], at_once: int) -> None:
    """Begin calls as their turn comes, and wait for each."""
    under_way: list[Any] = []
    for call in calls:
        under_way.append(call)
        if len(under_way) == at_once:
            for each in under_way:
                each.result()
            under_way.clear()
    for each in under_way:
        each.result()
