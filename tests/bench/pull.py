"""``orlop pull`` against ``ctr images pull`` at Debian's containerd, and podman where it is installed.

One large image (see ``_image``), from a registry on loopback, with gzip and with zstd layers, into every
snapshotter that suits this machine. The names of snapshotters and compressions may be given; BENCH_ROUNDS is
how many times each is measured.

What a round made is removed at its end, and the next one waits: an ext4 without a journal steps over each
inode that was freed in the last minute, one by one, which would be the next pull's loss whoever freed them.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Protocol

from tests.bench._image import BigImage, big_image
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
REST = 65.0
_DEADLINE = 600


class Way(Protocol):
    """A way to pull the image."""

    def pull(self, name: str) -> subprocess.CompletedProcess[bytes]: ...

    def remove(self, name: str) -> None:
        """Leave nothing of it behind."""
        ...


class Orlop:
    """Ours, into one snapshotter."""

    def __init__(self, daemon: Daemon, snapshotter: str) -> None:
        self._daemon = daemon
        self._snapshotter = snapshotter

    def pull(self, name: str) -> subprocess.CompletedProcess[bytes]:
        words = ("pull", "-q", "--snapshotter", self._snapshotter, name)
        return self._daemon.orlop(*words, timeout=_DEADLINE)

    def remove(self, name: str) -> None:
        self._daemon.must(self._daemon.orlop("rmi", name, timeout=_DEADLINE))
        self._daemon.must(self._daemon.orlop("system", "prune", timeout=_DEADLINE))


class Ctr:
    """Debian's containerd, by its own client."""

    def __init__(self, address: str) -> None:
        self._ctr = ["ctr", "-a", address, "-n", "bench", "images"]

    def pull(self, name: str) -> subprocess.CompletedProcess[bytes]:
        return _run(*self._ctr, "pull", "--plain-http", name)

    def remove(self, name: str) -> None:
        _check(_run(*self._ctr, "rm", "--sync", name))


class Podman:
    """Debian's podman, with its state in a folder."""

    def __init__(self, folder: Path) -> None:
        self._podman = ["podman", "--root", str(folder / "podman"), "--runroot", str(folder / "run")]

    def pull(self, name: str) -> subprocess.CompletedProcess[bytes]:
        return _run(*self._podman, "pull", "-q", "--tls-verify=false", name)

    def remove(self, name: str) -> None:
        _check(_run(*self._podman, "rmi", name))


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


def measure(ways: Mapping[str, Way], name: str, compression: str) -> list[str]:
    """Measure in turn, print medians and ratios; what missed its figure."""
    figures: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(int(os.environ.get("BENCH_ROUNDS", ROUNDS))):
        time.sleep(REST)
        for way, each in ways.items():
            figures[way].append(_timed(lambda each=each: each.pull(name)))
        for each in ways.values():
            each.remove(name)
    peer = statistics.median(figures["containerd"])
    missed: list[str] = []
    for way, seconds in figures.items():
        ratio = statistics.median(seconds) / peer
        raw = " ".join(f"{each:.2f}" for each in seconds)
        print(f"pull, {compression}, {way}: ratio {ratio:.2f}  ({raw} s)", flush=True)
        if way.startswith("orlop") and ratio > RATIO:
            missed.append(f"{way} with {compression} took {ratio:.2f} of containerd's time, not {RATIO}")
    return missed


def weigh(daemons: Mapping[str, Daemon], ways: Mapping[str, Way], name: str) -> list[str]:
    """Pull once more and look at the memory, which takes a fifteenth of a core; what missed its figure."""
    missed: list[str] = []
    for way, daemon in daemons.items():
        with MemoryWatch(daemon.pid) as memory:
            _check(ways[way].pull(name))
        ways[way].remove(name)
        print(f"    peaks, {way}: daemon {memory.daemon / MIB:.0f} MiB, all {memory.tree / MIB:.0f} MiB")
        if memory.tree > MEMORY:
            missed.append(f"{way} took {memory.tree / MIB:.0f} MiB, more than {MEMORY // MIB}")
    return missed


@contextmanager
def _served(image: BigImage, compression: str) -> Iterator[str]:
    """The name of the image in a registry of its own: in one that has both, skopeo takes gzip for zstd."""
    with registry() as server:
        wanted = f"{server.address}/bench/{compression}:latest"
        copy = ["skopeo", "--insecure-policy", "copy", "-q", "--dest-tls-verify=false"]
        _check(_run(*copy, image.layout(compression), f"docker://{wanted}"))
        manifest = _run("skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{wanted}")
        _check(manifest)
        if manifest.stdout.count(f".tar+{compression}".encode()) != len(
            json.loads(manifest.stdout)["layers"]
        ):
            raise RuntimeError(f"the registry has got other layers than {compression}: {manifest.stdout!r}")
        yield wanted


def main(words: list[str]) -> None:
    """Measure and print; fail if a figure was missed."""
    missed: list[str] = []
    image = big_image()
    print(f"the image: {image}")
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="pulls-"))
        ways: dict[str, Way] = {"containerd": Ctr(stack.enter_context(containerd()).address)}
        daemons: dict[str, Daemon] = {}
        for each in SNAPSHOTTERS:
            if set(words) & set(SNAPSHOTTERS) and each not in words:
                continue
            daemon = stack.enter_context(Daemon())  # each its own: one would not fetch for the other again
            if f'"{each}"' in daemon.must(daemon.orlop("plugins", "--output", "json")):
                ways[f"orlop {each}"] = Orlop(daemon, each)
                daemons[f"orlop {each}"] = daemon
        if shutil.which("podman"):
            ways["podman"] = Podman(Path(folder))
        for compression in COMPRESSIONS:
            if not set(words) & set(COMPRESSIONS) or compression in words:
                with _served(image, compression) as name:
                    missed += measure(ways, name, compression)
                    missed += weigh(daemons, ways, name)
    if missed:
        raise SystemExit("\n".join(missed))


if __name__ == "__main__":
    main(sys.argv[1:])
