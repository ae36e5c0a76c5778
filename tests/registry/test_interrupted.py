"""A pull that is cancelled at any moment leaves resumable ingests alone, and the next one takes them up."""

from __future__ import annotations

import random
import signal
import subprocess
import time
from collections.abc import Callable

import anyio
import pytest

from orlopd.core.progress import BlobProgress, BlobState, PullEvent
from tests.registry.conftest import NOTHING, SCOPE, Rig, open_rig
from tests.support.daemon import BIN, Daemon, daemon, eventually, fresh_daemon
from tests.support.faulty import FaultyRegistry, Handler, faulty_registry
from tests.support.images import MANIFEST, make_image, text_layer

__all__ = ["daemon", "fresh_daemon"]

MARK = 40
"""The bytes of a mark in an ingest's ``marks``; there is room for one per mebibyte."""
FIRST = 25
"""How many bytes of what it stops at a pull gets."""


def stop_at(faulty: FaultyRegistry, what: str) -> str:
    """Have the first request for a part stop amid its answer; the pattern of such requests."""
    image = faulty.served
    config = image.document()["config"]["digest"]
    digest = {"manifest": image.digest, "config": config, "first": image.layers[0], "last": image.layers[1]}
    if what == "name":
        faulty.on("HEAD", Handler.hang, times=1)
        return "HEAD"
    pattern = f"GET .*/{digest[what]}"

    def stop(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", MANIFEST if what == "manifest" else "application/octet-stream")
        handler.send_header("Content-Length", str(len(image.blobs[digest[what]])))
        handler.end_headers()
        handler.wfile.write(image.blobs[digest[what]][:FIRST])
        handler.wfile.flush()
        handler.hang()

    faulty.on(pattern, stop, times=1)
    return pattern


async def cancelled(rig: Rig, reference: str, when: Callable[[], bool]) -> None:
    """Begin a pull and cancel it when something holds."""
    with anyio.fail_after(40):
        async with anyio.create_task_group() as group:
            group.start_soon(rig.pull, reference)
            # The server is in a thread, so there is no event to wait for.
            while not when():  # noqa: ASYNC110
                await anyio.sleep(0.005)
            group.cancel_scope.cancel()


@pytest.mark.parametrize("what", ["name", "manifest", "config", "first", "last"])
async def test_amid_a_transfer(
    tmp_path_factory: pytest.TempPathFactory, faulty: FaultyRegistry, what: str
) -> None:
    pattern = stop_at(faulty, what)
    async with open_rig(tmp_path_factory.mktemp("rig")) as rig:
        await cancelled(rig, faulty.reference, lambda: bool(faulty.asked(pattern)))
        left = await rig.left()
        assert left == NOTHING | {"ingests": left["ingests"]}
        begun = {status.ref: status.offset for status in await rig.store.content.statuses(SCOPE)}
        faulty.seen.clear()
        await rig.pull(faulty.reference)
        for ref, offset in begun.items():
            digest = ref.partition("-")[2]
            ranges = [seen.header("range") for seen in faulty.asked(f"GET .*/{digest}")]
            whole = offset == len(faulty.served.blobs[digest])
            assert ranges == ([] if whole else [f"bytes={offset}-" if offset else ""])
        assert (await rig.left())["ingests"] == []
        assert await rig.digests() == set(faulty.served.blobs)


@pytest.mark.parametrize("state", [BlobState.FETCHED, BlobState.UNPACKING, BlobState.UNPACKED])
async def test_between_transfers_and_amid_unpacking(
    rig: Rig, faulty: FaultyRegistry, state: BlobState
) -> None:
    seen: list[PullEvent] = rig.events

    def there() -> bool:
        return any(isinstance(event, BlobProgress) and event.state is state for event in seen)

    await cancelled(rig, faulty.reference, there)
    left = await rig.left()
    # It may have been too late for the last of them.
    if left["images"] == []:
        assert left == NOTHING | {"ingests": left["ingests"]}
    await rig.pull(faulty.reference)
    assert await rig.digests() == set(faulty.served.blobs)
    assert (await rig.left())["leases"] == []


def test_by_an_end_of_the_daemon(fresh_daemon: Daemon) -> None:
    """However it ends: what it had written goes on from there after the next start."""
    daemon, least, sent = fresh_daemon, 2 << 20, 3 << 20
    for number, end in enumerate((daemon.stop, daemon.kill9)):
        image = make_image(
            [text_layer("noise", random.Random(number).randbytes(least).hex())], compress=False
        )
        [layer] = image.layers

        def stop(handler: Handler, data: bytes = image.blobs[layer]) -> None:
            handler.send_response(200)
            handler.send_header("Content-Length", str(len(data)))
            handler.end_headers()
            handler.wfile.write(data[:sent])
            handler.wfile.flush()
            handler.hang()

        with faulty_registry(image) as registry:
            registry.on(f"GET .*/{layer}", stop, times=1)
            command = [BIN / "orlop", "pull", "-q", registry.reference]
            with subprocess.Popen(command, env=daemon.environment, stderr=subprocess.PIPE) as pulling:
                eventually(lambda: written(daemon), lambda found: found >= least, 30)
                end()
                _, said = pulling.communicate(timeout=30)
            assert pulling.returncode == 1
            assert b"Traceback" not in said
            daemon.start()
            daemon.must(daemon.orlop("pull", "-q", registry.reference))
            first, *more = [seen.header("range") for seen in registry.asked(f"GET .*/{layer}")]
        assert first == ""
        [begun] = [int(each.removeprefix("bytes=").rstrip("-")) for each in more]
        assert least <= begun <= sent


def written(daemon: Daemon) -> int:
    """The bytes of the largest ingest that a daemon killed now would go on from: its last mark's, rounded
    down to a mebibyte."""
    marks = [path.stat().st_size // MARK for path in daemon.root.rglob("ingest/*/marks")]
    return max((count - 1) << 20 for count in [*marks, 1])


def active(daemon: Daemon) -> dict[str, str]:
    """The sizes of ingests by their refs."""
    lines = daemon.must(daemon.ctr("content", "active")).splitlines()[1:]
    return {words[0]: words[1] for line in lines if (words := line.split())}


def test_by_ctrl_c_of_a_person(daemon: Daemon, faulty: FaultyRegistry) -> None:
    pattern = stop_at(faulty, "last")
    layer = faulty.served.layers[1]
    with subprocess.Popen(
        [BIN / "orlop", "pull", faulty.reference],
        env=daemon.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as pulling:
        assert eventually(lambda: faulty.asked(pattern), bool, 30)
        eventually(lambda: active(daemon), lambda sizes: f"layer-{layer}" in sizes, 30)
        time.sleep(0.3)  # what was sent is on its way, and nobody sees it come before it is written
        pulling.send_signal(signal.SIGINT)
        _, said = pulling.communicate(timeout=30)
    assert pulling.returncode == 130
    assert b"Traceback" not in said
    assert eventually(lambda: daemon.must(daemon.ctr("leases", "ls", "-q")), lambda left: not left, 30) == ""
    daemon.must(daemon.orlop("system", "prune"))
    assert daemon.must(daemon.ctr("content", "ls", "-q")) == ""
    size = active(daemon)[f"layer-{layer}"]
    assert size in {f"{FIRST}B", "0B"}
    faulty.seen.clear()
    daemon.must(daemon.orlop("pull", "-q", faulty.reference))
    assert [seen.header("range") for seen in faulty.asked(pattern)] == [
        f"bytes={FIRST}-" if size == f"{FIRST}B" else ""
    ]
    assert active(daemon) == {}
    daemon.must(daemon.orlop("rmi", faulty.reference))
