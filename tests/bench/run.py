"""``ctr`` against us and against Debian's containerd, in one run: the ratios of what a person waits for."""

from __future__ import annotations

import itertools
import tempfile
import time
from pathlib import Path

from tests.bench._pairs import compare
from tests.support.containerd import containerd
from tests.support.ctr import ctr
from tests.support.daemon import Daemon
from tests.support.images import save_archive

NAME = "docker.io/library/bench:latest"


def main() -> None:
    """Print one line a thing measured, with the raw figures below it."""
    numbers = itertools.count()
    with tempfile.TemporaryDirectory() as folder, containerd() as peer, Daemon() as daemon:
        archive = save_archive(Path(folder) / "image.tar", NAME)
        sides = (str(daemon.socket), peer.address)

        def do(address: str, *words: str) -> None:
            said = ctr(address, *words)
            if said.code:
                raise RuntimeError(f"ctr {' '.join(words)} at {address}: {said.err}")

        def both(name: str, *words: str) -> None:
            def side(address: str) -> None:
                do(address, *(word.replace("%", str(next(numbers))) for word in words))

            compare(name, lambda: side(sides[0]), lambda: side(sides[1]))

        for address in sides:
            do(address, "images", "import", str(archive))
            do(address, "run", "-d", NAME, "long", "sleep", "10000")
        starts = []
        for _ in range(5):
            daemon.stop()
            begun = time.perf_counter()
            daemon.start()
            starts.append(time.perf_counter() - begun)
        print(f"orlopd from its command line to serving, in seconds: {' '.join(f'{s:.2f}' for s in starts)}")
        both("ctr version", "version")
        both("ctr run --rm IMAGE true", "run", "--rm", NAME, "r%", "true")
        both("ctr tasks exec true", "tasks", "exec", "--exec-id", "e%", "long", "true")
        both("ctr images import", "images", "import", str(archive))
        for address in sides:
            do(address, "tasks", "kill", "-s", "9", "long")
            while "STOPPED" not in ctr(address, "tasks", "ls").out:
                time.sleep(0.05)
            ctr(address, "tasks", "rm", "long")  # its exit code is the task's: 137
            do(address, "containers", "rm", "long")


if __name__ == "__main__":
    main()
