"""How much memory a daemon and its processes take while it is measured."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path
from typing import Self

INTERVAL = 0.1


class MemoryWatch:
    """Looks at a process and its descendants until the block is left.

    :attr:`tree` is the largest sum of their proportional set sizes that was seen, so that what they share
    counts once; :attr:`daemon` the process's own peak as the kernel keeps it (VmHWM). Both in bytes.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.tree = 0

    @property
    def daemon(self) -> int:
        """The peak of the process alone."""
        return _field(Path(f"/proc/{self._pid}/status"), "VmHWM:")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(INTERVAL):
            own = _memory(self._pid)
            others = [pid for pid in _family(self._pid) if pid != self._pid and _memory(pid) != own]
            total = sum(_field(Path(f"/proc/{pid}/smaps_rollup"), "Pss:") for pid in (self._pid, *others))
            self.tree = max(self.tree, total)


def _family(pid: int) -> list[int]:
    found = [pid]
    for each in found:
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{each}/task").iterdir():
                found += [int(child) for child in (task / "children").read_text().split()]
    return found


def _memory(pid: int) -> tuple[int, ...]:
    """What is the same of two processes only if their memory is: as of a child before its exec."""
    status = Path(f"/proc/{pid}/status")
    return tuple(_field(status, name) for name in ("VmPeak:", "VmSize:", "VmHWM:", "VmData:"))


def _field(path: Path, name: str) -> int:
    with contextlib.suppress(OSError):
        for line in path.read_text().splitlines():
            if line.startswith(name):
                return int(line.split()[1]) * 1024
    return 0
