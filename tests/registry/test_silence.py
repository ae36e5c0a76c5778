"""Registries that say nothing, too little or not yet: they meet a deadline, or are waited for."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from orlopd.plugin.errors import (
    DeadlineExceeded,
    Unavailable,
)
from tests.registry.conftest import FAST, NOTHING, Rig, open_rig
from tests.registry.faults import blob, layer_path
from tests.support.faulty import FaultyRegistry, Handler
from tests.support.images import make_image


async def test_a_registry_that_hangs_meets_a_deadline(hasty: Rig, faulty: FaultyRegistry) -> None:
    faulty.on("HEAD", Handler.hang)
    began = time.monotonic()
    with pytest.raises(DeadlineExceeded) as late:
        await hasty.pull(faulty.reference)
    assert time.monotonic() - began < 20  # and not the 30 s of the silence
    assert late.value.message == (
        f"registry {faulty.address} was asked for image {faulty.reference} and sent no answer within 0.5 s"
    )
    assert await hasty.left() == NOTHING


async def test_a_registry_that_accepts_no_connection_is_unavailable(rig: Rig) -> None:
    with pytest.raises(Unavailable, match=r"cannot reach registry 127\.0\.0\.1:1: connection refused"):
        await rig.pull("127.0.0.1:1/app:1")
    with pytest.raises(Unavailable, match=r"cannot reach registry nosuch\.invalid"):
        await rig.pull("nosuch.invalid/app:1")
    assert await rig.left() == NOTHING


async def test_a_blob_that_stalls_meets_a_deadline_and_is_resumed(hasty: Rig, faulty: FaultyRegistry) -> None:
    def stall(handler: Handler) -> None:
        handler.cut(blob(faulty), 20)
        handler.hang()

    faulty.on(layer_path(faulty), stall, times=1)
    await hasty.pull(faulty.reference)
    assert [seen.header("range") for seen in faulty.asked(layer_path(faulty))] == ["", "bytes=20-"]


async def test_a_blob_that_never_moves_on_is_one_error(hasty: Rig, faulty: FaultyRegistry) -> None:
    def stall(handler: Handler) -> None:
        handler.cut(blob(faulty), 0)
        handler.hang()

    faulty.on(layer_path(faulty), stall)
    with pytest.raises(DeadlineExceeded, match=r"stopped sending: nothing came in 0\.5 s"):
        await hasty.pull(faulty.reference)
    left = await hasty.left()
    assert (left["images"], left["snapshots"], left["leases"], left["content"]) == ([], [], [], [])


async def test_a_blob_that_drips_is_too_slow(hasty: Rig, faulty: FaultyRegistry) -> None:
    def drip(handler: Handler) -> None:
        handler.cut(blob(faulty), 0)
        for byte in blob(faulty):
            handler.wfile.write(bytes([byte]))
            handler.wfile.flush()
            if handler.registry.over.wait(0.05):
                return

    faulty.on(layer_path(faulty), drip)
    with pytest.raises(DeadlineExceeded, match="stopped sending: only"):
        await hasty.pull(faulty.reference)


async def test_a_blob_that_moves_on_may_take_as_long_as_it_likes(
    tmp_path: Path, faulty: FaultyRegistry
) -> None:
    data = bytes(range(256)) * 72
    config = FAST.model_copy(update={"stall_timeout": 1})
    image = make_image([data], compress=False)
    faulty.image = image

    def slowly(handler: Handler) -> None:
        handler.cut(data, 0)
        for start in range(0, len(data), 2048):
            handler.registry.over.wait(0.25)
            handler.wfile.write(data[start : start + 2048])
            handler.wfile.flush()

    faulty.on(layer_path(faulty), slowly)
    began = time.monotonic()
    async with open_rig(tmp_path, config) as rig:
        await rig.pull(faulty.reference, unpack=False)
    assert time.monotonic() - began > 2 * config.stall_timeout
    assert len(faulty.asked(layer_path(faulty))) == 1


async def test_headers_that_drip_meet_a_deadline(hasty: Rig, faulty: FaultyRegistry) -> None:
    def drip(handler: Handler) -> None:
        handler.close_connection = True
        for byte in b"HTTP/1.1 200 OK\r\nContent-Type: " + b"x" * 200:
            handler.wfile.write(bytes([byte]))
            handler.wfile.flush()
            if handler.registry.over.wait(0.05):
                return

    faulty.on("HEAD", drip)
    with pytest.raises(DeadlineExceeded, match="sent no answer"):
        await hasty.pull(faulty.reference)
    assert await hasty.left() == NOTHING


async def test_retry_after_is_heeded(rig: Rig, faulty: FaultyRegistry) -> None:
    faulty.on(layer_path(faulty), lambda handler: handler.answer(429, b"", {"Retry-After": "1"}), times=1)
    began = time.monotonic()
    await rig.pull(faulty.reference)
    assert time.monotonic() - began >= 1


async def test_a_retry_after_beyond_patience_is_told(rig: Rig, faulty: FaultyRegistry) -> None:
    faulty.on("GET|HEAD", lambda handler: handler.answer(429, b"", {"Retry-After": "3600"}))
    with pytest.raises(Unavailable, match="it asks to wait 3600 s") as limited:
        await rig.pull(faulty.reference)
    assert limited.value.reason == "RATE_LIMITED"
