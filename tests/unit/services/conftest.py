"""The services over a real store."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import grpc.aio
import pytest

from orlopd.server.interceptor import Interceptor
from orlopd.server.tracing import Tracer
from tests.support.services import SERVICES, Client, UpperDiffer
from tests.support.store import World


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[Client]:
    world = World(tmp_path)
    world.differs.append(UpperDiffer())
    async with world.open() as store:
        server = grpc.aio.server(interceptors=[Interceptor(Tracer("test"))])
        for service in SERVICES:
            (name,) = service(store).register(server)
            assert name.startswith("containerd.services.")
        server.add_insecure_port(f"unix:{tmp_path}/sock")
        await server.start()
        try:
            async with grpc.aio.insecure_channel(f"unix:{tmp_path}/sock") as channel:
                yield Client(channel, store)
        finally:
            await server.stop(0)
