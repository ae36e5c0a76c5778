"""Containers against Debian's containerd, by the same ctr and runc; and a keystroke's way.

``PYTHONPATH=. .venv/bin/python tests/bench/runtime.py PART...`` measures only those parts.
"""

from __future__ import annotations

import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import anyio

from orlop.values import ContainerSpec
from tests.bench._pairs import ROUNDS, compare, must_ctr
from tests.bench.shims import MIB, NAME, pss, shims
from tests.support.containerd import containerd
from tests.support.ctr import ctr
from tests.support.daemon import Daemon
from tests.support.images import save_archive

BURST = 100
CLIENTS = 8
STREAM = 2048 * MIB
KEYS = 300
AIMS = {"run": 0.7, "execs": 0.8, "burst": 0.7, "stream": 1.0}
MOST_ECHO = 0.005
MOST_GROWTH = 4 * MIB


class Runtime:
    """The measurements. Each says our time divided by the peer's."""

    def __init__(self, daemon: Daemon, peer: str, rounds: int) -> None:
        self._daemon = daemon
        self._sides = (str(daemon.socket), peer)
        self._rounds = rounds
        self._numbers = itertools.count()
        self.grown = 0

    def run(self) -> float:
        """Create, start, wait and remove a container that does nothing."""
        return self._compare(
            "ctr run --rm IMAGE true",
            lambda address: must_ctr(address, "run", "--rm", NAME, self._name(), "true"),
        )

    def execs(self) -> float:
        """One more process in a container that runs."""
        for address in self._sides:
            must_ctr(address, "run", "-d", NAME, "long", "sleep", "10000")
        try:
            return self._compare(
                "ctr tasks exec true",
                lambda address: must_ctr(address, "tasks", "exec", "--exec-id", self._name(), "long", "true"),
            )
        finally:
            for address in self._sides:
                self._remove(address, ["long"])

    def burst(self) -> float:
        """Start many containers by several clients at once."""

        def work(address: str) -> float:
            names = [self._name() for _ in range(BURST)]
            begun = time.perf_counter()
            with ThreadPoolExecutor(CLIENTS) as pool:
                made = [pool.submit(must_ctr, address, "run", "-d", NAME, n, "sleep", "10000") for n in names]
                for each in made:
                    each.result()
            took = time.perf_counter() - begun
            self._remove(address, names)
            return took

        name = f"{BURST} containers by {CLIENTS} clients"
        return self._compare(name, work, min(self._rounds, 3), BURST, "containers")

    def stream(self) -> float:
        """Write much to standard output, through the shim and a FIFO to ctr, which drops it."""
        script = f"dd if=/dev/zero bs=64k count={STREAM >> 16} 2>/dev/null"

        def work(address: str) -> None:
            stop = threading.Event()
            sizes: list[int] = []

            def watch() -> None:
                while not stop.wait(0.2):
                    sizes.extend(pss(pid) for pid in shims("orlop-shim", str(self._daemon.folder)))

            watcher = threading.Thread(target=watch)
            if address == self._sides[0]:
                watcher.start()
            line = ["ctr", "-a", address, "run", "--rm", NAME, self._name(), "sh", "-c", script]
            subprocess.run(line, stdout=subprocess.DEVNULL, check=True, timeout=300)
            stop.set()
            if watcher.ident:
                watcher.join()
                self.grown = max(self.grown, max(sizes) - min(sizes[1:] or sizes))

        ratio = self._compare("2 GiB to stdout", work, min(self._rounds, 3), STREAM / MIB, "MiB")
        print(f"    the shim's memory moved by {self.grown / MIB:.1f} MiB")
        return ratio

    def echo(self) -> float:
        """From a keystroke written to an attached session to its echo by the container's terminal."""

        async def measure() -> list[float]:
            took: list[float] = []
            async with self._daemon.connect("bench") as client:
                spec = ContainerSpec(image=NAME, args=("cat",), terminal=True, stdin=True, auto_remove=True)
                async with client.containers.run(spec) as session:
                    await session.ready()
                    outputs = aiter(session)
                    for _ in range(KEYS):
                        begun = time.perf_counter()
                        await session.write(b"x")
                        await anext(outputs)
                        took.append(time.perf_counter() - begun)
                        await anyio.sleep(0.002)
                    await session.signal("KILL")
                    await session.wait()
            return took

        self._daemon.must(self._daemon.ctr("-n", "bench", "images", "import", str(self._archive)))
        took = sorted(anyio.run(measure))
        median = statistics.median(took)
        print(
            f"echo of a keystroke: {median * 1000:.2f} ms median, {took[int(KEYS * 0.99)] * 1000:.2f} ms 99th"
        )
        return median

    def prepare(self, archive: Path) -> None:
        """Bring the image to both."""
        self._archive = archive
        for address in self._sides:
            must_ctr(address, "images", "import", str(archive))

    def _compare(
        self,
        name: str,
        work: Callable[[str], float | str | None],
        rounds: int = 0,
        amount: float = 0,
        unit: str = "",
    ) -> float:
        def side(address: str) -> float | None:
            said = work(address)
            return said if isinstance(said, float) else None

        ours, peer = self._sides
        return compare(name, lambda: side(ours), lambda: side(peer), rounds or self._rounds, amount, unit)

    def _remove(self, address: str, names: list[str]) -> None:
        with ThreadPoolExecutor(CLIENTS) as pool:
            for name in names:
                pool.submit(ctr, address, "tasks", "rm", "-f", name)
        with ThreadPoolExecutor(CLIENTS) as pool:
            for name in names:
                pool.submit(ctr, address, "containers", "rm", name)

    def _name(self) -> str:
        return f"c{next(self._numbers)}"


def main(parts: list[str]) -> None:
    """Measure and print; fail where an aim is missed."""
    missed: list[str] = []
    with tempfile.TemporaryDirectory() as folder, containerd() as peer, Daemon() as daemon:
        runtime = Runtime(daemon, peer.address, int(os.environ.get("BENCH_ROUNDS", ROUNDS)))
        runtime.prepare(save_archive(Path(folder) / "image.tar", NAME))
        for part, aim in (AIMS | {"echo": MOST_ECHO}).items():
            if not parts or part in parts:
                found = getattr(runtime, part)()
                if found > aim:
                    missed.append(f"{part}: {found:.3f}, the aim is {aim}")
        if runtime.grown > MOST_GROWTH:
            missed.append("the memory of the shim is not flat")
    if missed:
        raise SystemExit("; ".join(missed))


if __name__ == "__main__":
    main(sys.argv[1:])
