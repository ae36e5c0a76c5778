"""Garbage collection over 20,000 images and 100,000 blobs while others read and write.

Two collections are timed: one that finds nothing to remove, asked for as a client does, and one that removes
half of everything when it expires. Meanwhile a reader reads small blobs and a writer brings some in, as
pulls do; the longest that each had to wait for an answer is printed, and what the daemon took of memory.
"""

from __future__ import annotations

import hashlib
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from orlopd.core import blobs, graph
from orlopd.core.db import dump_labels, insert, to_micros
from tests.bench._client import CHUNK, MIB, NAMESPACE, Blob, Client
from tests.bench._memory import MemoryWatch
from tests.support.daemon import Daemon

IMAGES = 20_000
BLOBS_EACH = 5
EXPIRES_IN = timedelta(seconds=120)
"""From the last row written: time to start the daemon and collect once before half of it goes."""

MEMORY_LIMIT = 120 * MIB


def blob(image: int, part: int) -> bytes:
    """A small blob; the first part of an image refers to the others."""
    return b"%d/%d" % (image, part)


def digest(image: int, part: int) -> str:
    """Its digest."""
    return f"sha256:{hashlib.sha256(blob(image, part)).hexdigest()}"


def seed(root: Path) -> datetime:
    """Fill a stopped daemon's folders: an odd image expires, an even one stays; when they do."""
    folder = next(root.glob("**/blobs/sha256"))
    for image in range(IMAGES):
        for part in range(BLOBS_EACH):
            (folder / digest(image, part)[7:]).write_bytes(blob(image, part))
    database = next(path for path in root.glob("*.db") if path.is_file())
    conn = sqlite3.connect(database, isolation_level=None)
    conn.execute("BEGIN")
    conn.execute("INSERT OR IGNORE INTO namespaces (name) VALUES (?)", (NAMESPACE,))
    at = datetime.now(UTC)
    for image in range(IMAGES):
        _add_image(conn, image, at, at if image % 2 else None)
    # Not before: on a busy machine the rows take longer to write than what is to happen until then.
    expires = datetime.now(UTC) + EXPIRES_IN
    conn.execute("UPDATE roots SET expires_at = ? WHERE expires_at IS NOT NULL", (to_micros(expires),))
    conn.execute("COMMIT")
    conn.close()
    return expires


def _add_image(conn: sqlite3.Connection, image: int, at: datetime, expires: datetime | None) -> None:
    first, *others = (digest(image, part) for part in range(BLOBS_EACH))
    references = {f"{graph.REF_PREFIX}content.{n}": other for n, other in enumerate(others)}
    blobs.add(conn, NAMESPACE, first, len(blob(image, 0)), references)
    for part, other in enumerate(others, 1):
        blobs.add(conn, NAMESPACE, other, len(blob(image, part)), {})
    name = f"registry.example/image-{image:06}:latest"
    labels = {graph.EXPIRE_LABEL: expires.isoformat(timespec="seconds")} if expires else {}
    row = {
        "namespace": NAMESPACE,
        "name": name,
        "media_type": "application/vnd.oci.image.manifest.v1+json",
        "digest": first,
        "size": len(blob(image, 0)),
        "annotations": "",
        "labels": dump_labels(labels),
        "created_at": to_micros(at),
        "updated_at": to_micros(at),
    }
    insert(conn, "images", row)
    owner = graph.node(graph.IMAGE, name)
    edges = [
        (owner, graph.node(graph.CONTENT, first)),
        (graph.node(graph.FLAT[graph.IMAGE], name), graph.node(graph.FLAT[graph.CONTENT], first)),
    ]
    graph.put(conn, NAMESPACE, owner, edges, root=True, expires=expires)


class Stalls:
    """Does something again and again beside the rest, and keeps how long each time took."""

    def __init__(self, what: str, work: Iterable[Callable[[], object]]) -> None:
        self._what = what
        self._work = iter(work)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._took: list[float] = []
        self._failure: Exception | None = None

    def __enter__(self) -> Stalls:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def report(self) -> None:
        """Print what was seen since the last report."""
        if self._failure is not None:
            raise self._failure
        took, self._took = sorted(self._took), []
        if not took:
            print(f"    {self._what}: none was over yet")
            return
        middle, longest = took[len(took) // 2] * 1000, took[-1] * 1000
        print(f"    {self._what}: {len(took)} times, median {middle:.1f} ms, longest {longest:.0f} ms")

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                begun = time.perf_counter()
                next(self._work)()
                self._took.append(time.perf_counter() - begun)
        except Exception as error:
            self._failure = error


@contextmanager
def _busy(daemon: Daemon) -> Iterator[tuple[Stalls, Stalls]]:
    with ExitStack() as stack:
        reader = stack.enter_context(Client(daemon.socket))
        client = stack.enter_context(Client(daemon.socket))
        writer = stack.enter_context(client.leased("pull"))

        def reads() -> Iterable[Callable[[], object]]:
            while True:
                for image in range(0, IMAGES, 2):
                    yield lambda image=image: reader.read(digest(image, image % BLOBS_EACH))

        def writes() -> Iterable[Callable[[], object]]:
            while True:
                new = Blob(CHUNK)
                yield lambda new=new: writer.write(new.digest, new)

        yield (
            stack.enter_context(Stalls("reads of a small blob", reads())),
            stack.enter_context(Stalls("writes of a blob of 1 MiB", writes())),
        )


def main() -> None:
    """Measure and print; fail if the daemon took more memory than it may."""
    with Daemon() as daemon:
        daemon.stop()
        begun = time.perf_counter()
        expires = seed(daemon.root)
        print(f"{IMAGES} images, {IMAGES * BLOBS_EACH} blobs, made in {time.perf_counter() - begun:.0f} s")
        daemon.start()
        with MemoryWatch(daemon.pid) as memory, Client(daemon.socket) as client, _busy(daemon) as stalls:
            _collect(client, "nothing to remove", stalls)
            time.sleep(max((expires - datetime.now(UTC)).total_seconds() + 1, 0))
            for each in stalls:
                each.report()
            _collect(client, "half to remove", stalls)
            left = client.list_images()
            assert left == IMAGES // 2, f"{left} images are left"
            print(f"    peak: daemon {memory.daemon / MIB:.0f} MiB, tree {memory.tree / MIB:.0f} MiB")
        if memory.tree > MEMORY_LIMIT:
            raise SystemExit(f"the daemon took {memory.tree / MIB:.0f} MiB, more than {MEMORY_LIMIT // MIB}")


def _collect(client: Client, name: str, stalls: Sequence[Stalls]) -> None:
    """Have a collection run as clients do, by ending a lease and waiting for what comes of it."""
    with client.leased(name.replace(" ", "-")):
        begun = time.perf_counter()
    print(f"collection, {name}: {time.perf_counter() - begun:.2f} s")
    for each in stalls:
        each.report()


if __name__ == "__main__":
    main()
