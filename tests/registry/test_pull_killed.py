"""The daemon or a worker is killed amid a pull: the next start is clean, the next pull takes that up."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.world import seed
from tests.support.daemon import BIN, Daemon
from tests.support.images import File, SmallImage, make_image, tar_of
from tests.support.registry import Registry

LAYERS = 5


@pytest.fixture(scope="module")
def image() -> SmallImage:
    """An image whose pull takes long enough to be hit anywhere."""
    noise = random.Random(4)
    layers = [
        tar_of(
            [
                File(f"layer-{layer}/", None),
                *(File(f"layer-{layer}/{name}", noise.randbytes(20_000)) for name in range(150)),
                *([File(f"layer-{layer - 1}/.wh.0", b"")] if layer else []),
            ]
        )
        for layer in range(LAYERS)
    ]
    return make_image(layers)


@pytest.fixture(params=["overlayfs", "vfs", "erofs"])
def started(request: pytest.FixtureRequest) -> Iterator[tuple[Daemon, str]]:
    with Daemon() as daemon:
        yield daemon, request.param


def blobs(daemon: Daemon) -> set[str]:
    """What the daemon has of content."""
    return set(daemon.must(daemon.ctr("content", "ls", "-q")).split())


def descendants(pid: int) -> list[int]:
    found = [pid]
    for each in found:
        with contextlib.suppress(OSError):
            found += map(int, Path(f"/proc/{each}/task/{each}/children").read_text().split())
    return found[1:]


def pull(daemon: Daemon, reference: str, snapshotter: str) -> subprocess.Popen[bytes]:
    command = [BIN / "orlop", "pull", "-q", "--snapshotter", snapshotter, reference]
    return subprocess.Popen(
        command,
        env=daemon.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def check(daemon: Daemon, server: Registry, image: SmallImage, reference: str, snapshotter: str) -> None:
    """The daemon finds nothing amiss; a pull works, fetches only what was missing, and shows the image."""
    checked = daemon.orlop("system", "fsck")
    deadline = time.monotonic() + 10
    while b"/trash/" in checked.stdout and time.monotonic() < deadline:  # it is being deleted right now
        checked = daemon.orlop("system", "fsck")
    daemon.must(checked)
    there = blobs(daemon)
    before = {digest: server.fetched(digest) for digest in image.layers}
    daemon.must(daemon.orlop("pull", "-q", "--snapshotter", snapshotter, reference, timeout=50))
    for digest in image.layers:
        assert server.fetched(digest) == before[digest] or digest not in there, f"{digest} was fetched again"
    assert set(image.layers) <= blobs(daemon)
    # What the dead daemon worked on is its lease's, which ends by itself some time later.
    for lease in daemon.must(daemon.ctr("leases", "ls", "-q")).split():
        daemon.must(daemon.ctr("leases", "rm", "--sync", lease))
    listed = daemon.must(daemon.ctr("snapshots", "--snapshotter", snapshotter, "ls"))
    assert listed.count("Committed") == LAYERS
    assert "Active" not in listed


@pytest.mark.timeout(300)
@pytest.mark.parametrize("victim", ["daemon", "worker"])
def test_a_pull_that_is_killed_is_taken_up(
    started: tuple[Daemon, str], server: Registry, image: SmallImage, victim: str
) -> None:
    daemon, snapshotter = started
    reference = server.push(f"killed/{victim}-{snapshotter}:latest", image)
    begun = time.monotonic()
    daemon.must(daemon.orlop("pull", "-q", "--snapshotter", snapshotter, reference, timeout=50))
    usual = time.monotonic() - begun
    moments = random.Random(seed())
    kill: Callable[[], None] = daemon.kill9 if victim == "daemon" else lambda: _kill_workers(daemon)
    daemon.must(daemon.orlop("rmi", reference))
    daemon.must(daemon.orlop("system", "prune"))
    assert not blobs(daemon) & set(image.layers)
    moment = moments.uniform(0.2, 1.0) * usual
    with pull(daemon, reference, snapshotter) as pulling:
        time.sleep(moment)
        kill()
        _, said = pulling.communicate(timeout=50)
    assert b"Traceback" not in said
    if victim == "daemon":
        daemon.start()
    check(daemon, server, image, reference, snapshotter)


def _kill_workers(daemon: Daemon) -> None:
    """Kill whatever unpacks, and what forks it."""
    for pid in descendants(daemon.pid):
        with contextlib.suppress(OSError):
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
            if any(name in command for name in (b"orlop_plugins.tar.zygote", b"orlop_plugins.erofs.worker")):
                os.kill(pid, signal.SIGKILL)
