"""What a running container takes of memory, beside containerd's shim; and what 200 take of the daemon."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from tests.bench._pairs import must_ctr
from tests.support.containerd import containerd
from tests.support.daemon import Daemon
from tests.support.images import save_archive

NAME = "docker.io/library/bench:latest"
MIB = 1 << 20
MEASURED = 50
MANY = 200
MOST_SHIM = 6 * MIB
MOST_DAEMON = 150 * MIB
MOST_IDLE = 0.01
IDLE = 20.0


@contextmanager
def running(address: str, ids: range) -> Iterator[None]:
    """Have containers sleep in both daemons alike, until the block is left."""

    def each(*words: str) -> None:
        with ThreadPoolExecutor(4) as pool:
            for done in [
                pool.submit(must_ctr, address, *(w.replace("%", f"m{i}") for w in words)) for i in ids
            ]:
                done.result()

    each("run", "-d", NAME, "%", "sleep", "10000")
    try:
        yield
    finally:
        each("tasks", "kill", "-s", "9", "%")
        time.sleep(2)
        each("containers", "rm", "%")


def shims(program: str, address: str) -> list[int]:
    """The processes of this program that belong to the daemon at ``address`` or its folder."""
    found: list[int] = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue
        if program in words.split("\0")[0] and address in words:
            found.append(int(entry.name))
    return found


def pss(pid: int) -> int:
    """The proportional set size in bytes: what is shared counts in parts."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0


def cpu(pid: int) -> float:
    """Seconds of processor time."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Measure and print; fail where an aim is missed."""
    missed: list[str] = []
    with tempfile.TemporaryDirectory() as folder, containerd() as peer, Daemon() as daemon:
        archive = save_archive(Path(folder) / "image.tar", NAME)
        sides = {
            "orlop": (str(daemon.socket), "orlop-shim", str(daemon.folder)),
            "containerd": (peer.address, "containerd-shim-runc-v2", peer.address),
        }
        means: dict[str, float] = {}
        for name, (address, program, mark) in sides.items():
            must_ctr(address, "images", "import", str(archive))
            with running(address, range(MEASURED)):
                time.sleep(3)
                taken = [pss(pid) for pid in shims(program, mark)]
                assert len(taken) == MEASURED, f"{len(taken)} shims of {name}"
                means[name] = sum(taken) / len(taken)
                print(
                    f"shim of {name}: {means[name] / MIB:.2f} MiB Pss each over {MEASURED} containers "
                    f"({min(taken) / MIB:.2f} to {max(taken) / MIB:.2f})",
                    flush=True,
                )
        if means["orlop"] > MOST_SHIM:
            missed.append(f"a shim takes more than {MOST_SHIM / MIB:.0f} MiB")
        with running(str(daemon.socket), range(MEASURED, MEASURED + MANY)):
            time.sleep(3)
            before = cpu(daemon.pid)
            time.sleep(IDLE)
            idle = (cpu(daemon.pid) - before) / IDLE
            size = pss(daemon.pid)
        print(f"orlopd with {MANY} containers: {size / MIB:.0f} MiB Pss, idle {idle:.2%} of a core")
        if size > MOST_DAEMON or idle > MOST_IDLE:
            missed.append("the daemon takes more than it may")
    if missed:
        raise SystemExit("; ".join(missed))


if __name__ == "__main__":
    main()
