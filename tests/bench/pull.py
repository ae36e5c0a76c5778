"""``orlop pull`` against ``ctr images pull`` at Debian's containerd, and podman where it is installed.

One large image (see ``_image``), from a registry on loopback, with gzip and with zstd layers, into every
snapshotter that suits this machine. The names of snapshotters and compressions may be given; BENCH_ROUNDS is
how many times each is measured.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.bench._image import big_image
from tests.bench._memory import MemoryWatch
from tests.support.containerd import containerd
from tests.support.daemon import Daemon
from tests.support.registry import registry

MIB = 1 << 20
ROUNDS = 3
SNAPSHOTTERS = ("overlayfs", "erofs")
COMPRESSIONS = ("gzip", "zstd")
RATIO = 0.3
MEMORY = 300 * MIB
_DEADLINE = 600


class Pulls:
    """The ways to pull the image; each says how many seconds it took, and leaves nothing of it behind."""

    def __init__(self, daemon: Daemon, peer: str, folder: Path) -> None:
        self._daemon = daemon
        self._peer = peer
        self._podman = ["podman", "--root", str(folder / "podman"), "--runroot", str(folder / "run")]

    def orlop(self, name: str, snapshotter: str) -> float:
        took = _timed(
            lambda: self._daemon.orlop("pull", "-q", "--snapshotter", snapshotter, name, timeout=_DEADLINE)
        )
        self._daemon.must(self._daemon.orlop("rmi", name, timeout=_DEADLINE))
        self._daemon.must(self._daemon.orlop("system", "prune", timeout=_DEADLINE))
        return took

    def ctr(self, name: str) -> float:
        ctr = ["ctr", "-a", self._peer, "-n", "bench"]
        took = _timed(lambda: _run(*ctr, "images", "pull", "--plain-http", name))
        _check(_run(*ctr, "images", "rm", "--sync", name))
        return took

    def podman(self, name: str) -> float:
        took = _timed(lambda: _run(*self._podman, "pull", "-q", "--tls-verify=false", name))
        _check(_run(*self._podman, "rmi", name))
        return took


def _run(*command: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(command, capture_output=True, timeout=_DEADLINE)


def _check(done: subprocess.CompletedProcess[bytes]) -> None:
    if done.returncode:
        raise RuntimeError(f"{done.args}: {done.stderr.decode(errors='replace')}")


def _timed(pull: Callable[[], subprocess.CompletedProcess[bytes]]) -> float:
    os.sync()  # what was left of earlier work is not for this one to write
    begun = time.perf_counter()
    done = pull()
    took = time.perf_counter() - begun
    _check(done)
    return took


def measure(
    pulls: Pulls, name: str, compression: str, snapshotters: list[str], memory: MemoryWatch
) -> list[str]:
    """Measure in turn, print medians and ratios; what missed its figure."""
    ways: dict[str, Callable[[], float]] = {"containerd": lambda: pulls.ctr(name)}
    for each in snapshotters:
        ways[f"orlop {each}"] = lambda each=each: pulls.orlop(name, each)
    if shutil.which("podman"):
        ways["podman"] = lambda: pulls.podman(name)
    figures: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(int(os.environ.get("BENCH_ROUNDS", ROUNDS))):
        for way, pull in ways.items():
            figures[way].append(pull())
    peer = statistics.median(figures["containerd"])
    missed: list[str] = []
    for way, seconds in figures.items():
        ratio = statistics.median(seconds) / peer
        raw = " ".join(f"{each:.2f}" for each in seconds)
        print(f"pull, {compression}, {way}: ratio {ratio:.2f}  ({raw} s)", flush=True)
        if way.startswith("orlop") and ratio > RATIO:
            missed.append(f"{way} with {compression} took {ratio:.2f} of containerd's time, not {RATIO}")
    print(f"    peak so far: daemon {memory.daemon / MIB:.0f} MiB, tree {memory.tree / MIB:.0f} MiB")
    return missed


@contextmanager
def _served() -> Iterator[Callable[[str], str]]:
    """A registry with the image; the image's name by compression."""
    image = big_image()
    print(f"the image: {image}")
    with registry() as server:

        def name(compression: str) -> str:
            wanted = f"{server.address}/bench/{compression}:latest"
            copy = ["skopeo", "--insecure-policy", "copy", "-q", "--dest-tls-verify=false"]
            _check(_run(*copy, image.layout(compression), f"docker://{wanted}"))
            return wanted

        yield name


def main(words: list[str]) -> None:
    """Measure and print; fail if a figure was missed."""
    missed: list[str] = []
    with (
        tempfile.TemporaryDirectory(prefix="pulls-") as folder,
        _served() as serve,
        containerd() as other,
        Daemon() as daemon,
        MemoryWatch(daemon.pid) as memory,
    ):
        able = daemon.must(daemon.orlop("plugins", "--output", "json"))
        snapshotters = [each for each in SNAPSHOTTERS if (not words or each in words) and f'"{each}"' in able]
        pulls = Pulls(daemon, other.address, Path(folder))
        for compression in COMPRESSIONS:
            if not set(words) & set(COMPRESSIONS) or compression in words:
                missed += measure(pulls, serve(compression), compression, snapshotters, memory)
        if memory.tree > MEMORY:
            missed.append(f"the daemon took {memory.tree / MIB:.0f} MiB, more than {MEMORY // MIB}")
    if missed:
        raise SystemExit("\n".join(missed))


if __name__ == "__main__":
    main(sys.argv[1:])
