"""What a re-pull costs, pushes against skopeo's, and what memory these and other ways of images take.

One large image (see ``_image``), a registry on loopback. A re-pull is timed from a client that is running
already; a push from the start of each program, to a registry that is empty each time. BENCH_ROUNDS is how
many times a push is measured.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from google.protobuf import any_pb2

from orlop import sync
from orlop_protos.containerd.services.transfer.v1 import transfer_pb2, transfer_pb2_grpc
from orlop_protos.containerd.types.transfer import imagestore_pb2, registry_pb2
from tests.bench._image import BigImage, big_image
from tests.bench._memory import MemoryWatch
from tests.support.daemon import Daemon
from tests.support.registry import Registry, registry

MIB = 1 << 20
ROUNDS = 3
REPULLS = 20
AT_ONCE = 10
MOST_SECONDS = 0.1
RATIO = 1.0
MEMORY = 300 * MIB
_DEADLINE = 600


def run(*command: str | Path) -> None:
    """Run a program that has to succeed."""
    done = subprocess.run([*map(str, command)], capture_output=True, timeout=_DEADLINE)
    if done.returncode:
        raise RuntimeError(f"{command}: {done.stderr.decode(errors='replace')}")


def do(daemon: Daemon, *words: str | Path) -> None:
    """Have the daemon do something that has to succeed."""
    daemon.must(daemon.orlop(*words, timeout=_DEADLINE))


def timed(work: Callable[[], object]) -> float:
    """Seconds that something takes."""
    os.sync()  # what was left of earlier work is not for this one to write
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def repull(daemon: Daemon, server: Registry, name: str) -> list[str]:
    """Pull again what is here, and count what that asks of the registry."""
    figures: list[float] = []
    with sync.connect(daemon.address, namespace=daemon.namespace) as client:
        before = len(server.requests)
        for _ in range(REPULLS):
            begun = time.perf_counter()
            for _ in client.images.pull(name):
                pass
            figures.append(time.perf_counter() - begun)
        asked = server.requests[before:]
    median = statistics.median(figures)
    raw = " ".join(f"{each * 1000:.0f}" for each in figures)
    print(f"re-pull: {median * 1000:.0f} ms, {len(asked) / REPULLS:g} requests  ({raw} ms)", flush=True)
    missed = []
    if median > MOST_SECONDS:
        missed.append(f"a re-pull took {median * 1000:.0f} ms, more than {MOST_SECONDS * 1000:.0f}")
    if len(asked) != REPULLS:
        missed.append(f"{REPULLS} re-pulls asked {len(asked)} times")
    return missed


def push(daemon: Daemon, image: BigImage, name: str) -> list[str]:
    """Push to empty registries, in turn with skopeo."""
    figures: dict[str, list[float]] = {"orlop": [], "skopeo": []}
    copy = ("skopeo", "--insecure-policy", "copy", "-q", "--dest-tls-verify=false", image.layout("gzip"))
    for _ in range(int(os.environ.get("BENCH_ROUNDS", ROUNDS))):
        with registry() as empty:
            target = f"{empty.address}/bench/pushed:latest"
            figures["orlop"].append(timed(partial(do, daemon, "push", "-q", name, target)))
        with registry() as empty:
            target = f"docker://{empty.address}/bench/pushed:latest"
            figures["skopeo"].append(timed(partial(run, *copy, target)))
    for who, seconds in figures.items():
        raw = " ".join(f"{each:.2f}" for each in seconds)
        rate = image.gzip / MIB / statistics.median(seconds)
        print(f"push, {who}: {rate:.0f} MiB/s  ({raw} s)", flush=True)
    ratio = statistics.median(figures["orlop"]) / statistics.median(figures["skopeo"])
    print(f"    ratio {ratio:.2f}")
    return [f"a push took {ratio:.2f} of skopeo's time, not {RATIO:g}"] if ratio > RATIO else []


def forget(daemon: Daemon, name: str) -> None:
    """Remove the image with all that is of it."""
    do(daemon, "rmi", name)
    do(daemon, "system", "prune")


def at_once(daemon: Daemon, name: str) -> None:
    """Pull by several clients at the same time."""
    with ThreadPoolExecutor(AT_ONCE) as clients:
        list(clients.map(lambda _: do(daemon, "pull", "-q", name), range(AT_ONCE)))


def transfer(daemon: Daemon, name: str) -> None:
    """Pull and unpack by containerd's Transfer service."""
    source = registry_pb2.OCIRegistry(reference=name)
    unpack = imagestore_pb2.UnpackConfiguration(snapshotter="overlayfs")
    store = imagestore_pb2.ImageStore(name=name, unpacks=[unpack])
    request = transfer_pb2.TransferRequest(source=packed(source), destination=packed(store))
    stub: Any = transfer_pb2_grpc.TransferStub(daemon.channel())
    stub.Transfer(request, metadata=(("containerd-namespace", daemon.namespace),), timeout=600)


def packed(message: Any) -> Any:
    return any_pb2.Any(type_url=message.DESCRIPTOR.full_name, value=message.SerializeToString())


def main() -> None:
    """Measure and print; fail if a figure was missed."""
    image = big_image()
    print(f"the image: {image}")
    with (
        tempfile.TemporaryDirectory(prefix="distribution-") as folder,
        registry() as server,
        Daemon() as daemon,
        MemoryWatch(daemon.pid) as memory,
    ):
        name = f"{server.address}/bench/gzip:latest"
        copy = ("skopeo", "--insecure-policy", "copy", "-q", "--dest-tls-verify=false")
        run(*copy, image.layout("gzip"), f"docker://{name}")

        def told(what: str) -> None:
            own, all_of_it = memory.daemon / MIB, memory.tree / MIB
            print(f"    peak so far, {what}: daemon {own:.0f}, tree {all_of_it:.0f} MiB", flush=True)

        do(daemon, "pull", "-q", name)
        told("pull")
        missed = repull(daemon, server, name)
        missed += push(daemon, image, name)
        told("push")
        archive = Path(folder) / "image.tar"
        took = timed(lambda: do(daemon, "export", "-o", archive, name))
        print(f"export: {image.gzip / MIB / took:.0f} MiB/s")
        told("export")
        forget(daemon, name)
        took = timed(lambda: do(daemon, "import", archive))
        print(f"import, unpacked: {took:.2f} s")
        told("import")
        forget(daemon, name)
        took = timed(partial(at_once, daemon, name))
        print(f"{AT_ONCE} pulls at once: {took:.2f} s")
        told("pulls at once")
        forget(daemon, name)
        took = timed(partial(transfer, daemon, name))
        print(f"pull by Transfer: {took:.2f} s")
        told("Transfer")
        if memory.tree > MEMORY:
            missed.append(f"the daemon took {memory.tree / MIB:.0f} MiB, more than {MEMORY // MIB}")
    if missed:
        raise SystemExit("\n".join(missed))


if __name__ == "__main__":
    main()
