"""The store against Debian's containerd, by one client program: throughput, lists, creations; and memory.

``script/bench storage`` measures everything; with names of parts (write, read, images, containers, burst)
``PYTHONPATH=. .venv/bin/python tests/bench/storage.py PART...`` measures only those.
"""

from __future__ import annotations

import itertools
import os
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack

from tests.bench._client import MIB, Blob, Client
from tests.bench._memory import MemoryWatch
from tests.bench._pairs import ROUNDS, compare
from tests.support.containerd import containerd
from tests.support.daemon import Daemon

SIZE = 1024 * MIB
COUNT = 10_000
AT_ONCE = 32
MEMORY_LIMIT = 120 * MIB


class Storage:
    """The measurements, each between the same two clients."""

    def __init__(self, ours: Client, peer: Client, rounds: int) -> None:
        self._clients = ours, peer
        self._rounds = rounds
        self._numbers = itertools.count()

    def _compare(self, name: str, work: Callable[[Client], float | None], amount: float, unit: str) -> None:
        ours, peer = self._clients
        compare(name, lambda: work(ours), lambda: work(peer), self._rounds, amount, unit)

    def write(self) -> None:
        """Write a blob of 1 GiB in messages of 1 MiB, from the first message to the acknowledged commit."""

        def work(client: Client) -> float:
            name = f"write-{next(self._numbers)}"
            blob = Blob(SIZE)
            with client.leased(name) as leased:
                os.sync()
                begun = time.perf_counter()
                leased.write(name, blob)
                return time.perf_counter() - begun

        self._compare("write 1 GiB", work, SIZE / MIB, "MiB")

    def read(self) -> None:
        """Read a blob of 1 GiB that is in the page cache."""
        with ExitStack() as stack:
            blob = Blob(SIZE)
            for client in self._clients:
                stack.enter_context(client.leased("read")).write("read", blob)

            def work(client: Client) -> None:
                assert client.read(blob.digest) == SIZE

            self._compare("read 1 GiB", work, SIZE / MIB, "MiB")

    def images(self) -> None:
        """List images, in one message as the API has it."""
        for client in self._clients:
            client.create_images(COUNT)

        def work(client: Client) -> None:
            assert client.list_images() == COUNT

        self._compare(f"list {COUNT} images", work, COUNT, "images")

    def containers(self) -> None:
        """Create containers one after the other."""
        self._create(f"create {COUNT} containers, one at a time", 1)

    def burst(self) -> None:
        """Create containers, many calls at a time."""
        self._create(f"create {COUNT} containers, {AT_ONCE} at a time", AT_ONCE)

    def _create(self, name: str, at_once: int) -> None:
        def work(client: Client) -> float:
            prefix = f"c{next(self._numbers)}"
            begun = time.perf_counter()
            client.create_containers(prefix, COUNT, at_once=at_once)
            took = time.perf_counter() - begun
            client.delete_containers(prefix, COUNT)
            return took

        self._compare(name, work, COUNT, "containers")


PARTS = ("write", "read", "images", "containers", "burst")


def main(parts: list[str]) -> None:
    """Measure and print; fail if the daemon took more memory than it may."""
    rounds = int(os.environ.get("BENCH_ROUNDS", ROUNDS))
    with (
        containerd() as other,
        Daemon() as daemon,
        Client(daemon.socket) as ours,
        Client(other.address) as peer,
        MemoryWatch(daemon.pid) as memory,
    ):
        storage = Storage(ours, peer, rounds)
        for part in parts or PARTS:
            getattr(storage, part)()
            print(f"    peak so far: daemon {memory.daemon / MIB:.0f} MiB, tree {memory.tree / MIB:.0f} MiB")
    if memory.tree > MEMORY_LIMIT:
        raise SystemExit(f"the daemon took {memory.tree / MIB:.0f} MiB, more than {MEMORY_LIMIT // MIB}")


if __name__ == "__main__":
    main(sys.argv[1:])
