"""Snapshots against Debian's containerd, by one client program; and how time and memory go with their number.

A chain of 30 layers is made on both; then one container's worth of work on top of it: prepare, mount,
unmount, remove. Afterwards 1,000 snapshots on one base, in hundreds.
"""

from __future__ import annotations

import itertools
import os
import statistics
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import grpc

from orlop_protos.containerd.services.snapshots.v1 import snapshots_pb2 as api
from orlop_protos.containerd.services.snapshots.v1 import snapshots_pb2_grpc
from orlopd.plugin.mount import mount_all, unmount
from orlopd.plugin.values import Mount
from tests.support.containerd import containerd
from tests.support.daemon import Daemon

LAYERS = 30
ROUNDS = 40
MANY, STEP = 1000, 100
STEPS = ("prepare", "mount", "unmount", "remove")
HEADERS = (("containerd-namespace", "bench"),)
FLAT_TIME, FLAT_MEMORY = 2.0, 8 << 20
"""How much the last hundred may take beside the first, and how many bytes the daemon may grow."""


class Client:
    """One daemon's overlayfs."""

    def __init__(self, socket: str | Path) -> None:
        options = [("grpc.use_local_subchannel_pool", 1)]
        self._stub: Any = snapshots_pb2_grpc.SnapshotsStub(grpc.insecure_channel(f"unix:{socket}", options))

    def prepare(self, key: str, parent: str) -> list[Mount]:
        request = api.PrepareSnapshotRequest(
            snapshotter="overlayfs", key=key, parent=parent, labels={"containerd.io/gc.root": "bench"}
        )
        mounts = self._stub.Prepare(request, metadata=HEADERS).mounts
        return [Mount(each.type, each.source, tuple(each.options), each.target) for each in mounts]

    def commit(self, name: str, key: str) -> None:
        request = api.CommitSnapshotRequest(
            snapshotter="overlayfs", name=name, key=key, labels={"containerd.io/gc.root": "bench"}
        )
        self._stub.Commit(request, metadata=HEADERS)

    def remove(self, key: str) -> None:
        self._stub.Remove(api.RemoveSnapshotRequest(snapshotter="overlayfs", key=key), metadata=HEADERS)

    def chain(self, target: Path, layers: int) -> str:
        """Layers with a file each; the name of the topmost."""
        parent = ""
        for number in range(layers):
            mount_all(self.prepare("extract", parent), target)
            (target / f"file-{number}").write_text("x")
            unmount(target)
            parent = f"layer-{number}"
            self.commit(parent, "extract")
        return parent


def one(client: Client, key: str, parent: str, target: Path) -> list[float]:
    """The seconds of each step."""
    times = [time.perf_counter()]
    mounts = client.prepare(key, parent)
    times.append(time.perf_counter())
    mount_all(mounts, target)
    times.append(time.perf_counter())
    unmount(target)
    times.append(time.perf_counter())
    client.remove(key)
    times.append(time.perf_counter())
    return [after - before for before, after in itertools.pairwise(times)]


def side_by_side(clients: dict[str, Client], target: Path) -> dict[str, float]:
    """Print the medians of each step and of all, and return the ratios."""
    tops = {name: client.chain(target, LAYERS) for name, client in clients.items()}
    figures: dict[str, list[list[float]]] = {name: [] for name in clients}
    for number in range(ROUNDS + 1):
        for name, client in clients.items():
            taken = one(client, f"box-{number}", tops[name], target)
            if number:  # the first one warms up
                figures[name].append(taken)
    ratios: dict[str, float] = {}
    for index, step in enumerate((*STEPS, "all")):
        ours, peer = (
            statistics.median(sum(row) if step == "all" else row[index] for row in figures[name])
            for name in ("orlop", "peer")
        )
        ratios[step] = ours / peer
        print(
            f"{step} on {LAYERS} layers: ratio {ours / peer:.2f}"
            f"  (orlop {ours * 1000:.2f} ms, peer {peer * 1000:.2f} ms)",
            flush=True,
        )
    return ratios


def resident(pid: int) -> int:
    """The bytes of a process that are in memory."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def many(client: Client, target: Path, pid: int) -> tuple[float, int]:
    """Make snapshots on one base; how the last hundred compares with the first, and what memory grew."""
    base = client.chain(target, 1)
    seconds: list[float] = []
    sizes: list[int] = []
    for start in range(0, MANY, STEP):
        begun = time.perf_counter()
        for number in range(start, start + STEP):
            client.prepare(f"many-{number}", base)
        seconds.append(time.perf_counter() - begun)
        sizes.append(resident(pid))
    print(f"{MANY} snapshots on one base, a hundred in ms: {' '.join(f'{s * 1000:.0f}' for s in seconds)}")
    print(f"    memory after each hundred in MiB: {' '.join(f'{size / (1 << 20):.1f}' for size in sizes)}")
    for number in range(MANY):
        client.remove(f"many-{number}")
    # The first hundred fills caches; medians, because the machine has other things to do as well.
    half = len(seconds) // 2
    return statistics.median(seconds[half:]) / statistics.median(seconds[:half]), sizes[-1] - sizes[1]


def main() -> None:
    """Print the figures, and fail where time or memory is not flat."""
    with TemporaryDirectory() as folder, containerd() as other:
        target = Path(folder, "target")
        target.mkdir()
        with Daemon() as daemon:
            side_by_side({"orlop": Client(daemon.socket), "peer": Client(other.address)}, target)
        with Daemon() as daemon:
            slower, grown = many(Client(daemon.socket), target, daemon.pid)
    if slower > FLAT_TIME or grown > FLAT_MEMORY:
        raise SystemExit(
            f"not flat: the later ones take {slower:.2f} of the first, memory grew by {grown} bytes"
        )


if __name__ == "__main__":
    main()
