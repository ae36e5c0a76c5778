"""Lists of 100,000 objects as streams: how long they take, and what they take of memory."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from orlopd.core import blobs
from orlopd.core.db import dump_labels, insert, to_micros
from tests.bench._client import MIB, NAMESPACE, Client
from tests.bench._memory import MemoryWatch
from tests.support.daemon import Daemon

COUNT = 100_000
SPEC = b'{"pad":"%s"}' % (b"x" * 2038)
MEMORY_LIMIT = 120 * MIB


def seed(database: Path) -> None:
    """Fill a stopped daemon's database: as many containers, each with a spec of 2 KiB, as blobs."""
    at = to_micros(datetime.now(UTC))
    with closing(sqlite3.connect(database, isolation_level=None)) as conn:
        conn.execute("BEGIN")
        conn.execute("INSERT OR IGNORE INTO namespaces (name) VALUES (?)", (NAMESPACE,))
        for number in range(COUNT):
            row = {
                "namespace": NAMESPACE,
                "id": f"container-{number:06}",
                "image": "registry.example/team/image:latest",
                "runtime": "io.containerd.runc.v2",
                "runtime_options_type": "",
                "runtime_options": None,
                "spec_type": "types.containerd.io/opencontainers/runtime-spec/1/Spec",
                "spec": SPEC,
                "snapshotter": "overlayfs",
                "snapshot_key": f"container-{number:06}",
                "sandbox": "",
                "extensions": "",
                "labels": dump_labels({"number": str(number)}),
                "created_at": at,
                "updated_at": at,
            }
            insert(conn, "containers", row)
            blobs.add(conn, NAMESPACE, f"sha256:{number:064x}", 1, {"containerd.io/gc.root": "x"})
        conn.execute("COMMIT")


def main() -> None:
    """Measure and print; fail if the daemon took more memory than it may."""
    with Daemon() as daemon:
        daemon.stop()
        seed(next(path for path in daemon.root.glob("*.db") if path.name == "metadata.db"))
        daemon.start()
        with MemoryWatch(daemon.pid) as memory, Client(daemon.socket) as client:
            time.sleep(1)
            print(f"before: daemon {memory.daemon / MIB:.0f} MiB, tree {memory.tree / MIB:.0f} MiB")

            def measure(name: str, work: Callable[[], int]) -> None:
                begun = time.perf_counter()
                count = work()
                took = time.perf_counter() - begun
                assert count == COUNT, f"{count} of {COUNT} came"
                peak = f"daemon {memory.daemon / MIB:.0f} MiB, tree {memory.tree / MIB:.0f} MiB"
                print(f"{name} of {COUNT}: {took:.2f} s, peak so far: {peak}", flush=True)

            measure("containers.ListStream", client.stream_containers)
            measure("content.List", client.list_content)
        if memory.tree > MEMORY_LIMIT:
            raise SystemExit(f"the daemon took {memory.tree / MIB:.0f} MiB, more than {MEMORY_LIMIT // MIB}")


if __name__ == "__main__":
    main()
