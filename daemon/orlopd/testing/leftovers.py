"""The one fixture "nothing left behind".

::

    from orlopd.testing.leftovers import leftovers   # in conftest.py

    def test_something(leftovers):
        leftovers.watch("container-1")     # a name that may appear in mounts, sockets, cgroups, processes
        leftovers.empty(folder)            # a folder that has to be empty at the end
        ...

It compares mounts, processes, cgroups, network namespaces, descriptors, sockets and folders before and after
the test. Other tests run meanwhile, so it looks only at what is this test's: what descends from this process,
what is below the test's folder, and what carries a name that the test watches. What a test starts may need a
moment to go, so it is looked at for some seconds before it is called left behind.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

_SECONDS = 20.0
_POLL = "anon_inode:[eventpoll]"
_NAMESPACES = Path("/run/netns")


class Leftovers:
    """What a test may leave behind, and how things stood before it."""

    def __init__(self, *names: str, descriptors: bool = True) -> None:
        """:param descriptors: look at this process's own too; not where a gRPC client lives in it, which
        closes its sockets when it likes"""
        self._names = set(names)
        self._own = descriptors
        self._empty: list[Path] = []
        self._polls = _polls()
        self._before = {kind: look() for kind, look in self._looks().items()}

    def watch(self, *names: str | Path) -> None:
        """Look for these names as well: of a folder, a container, a cgroup; 6 characters at least, so that
        they are nobody else's."""
        for name in map(str, names):
            if len(name) < 6:
                raise ValueError(f"{name!r} is too short to be nobody else's")
            self._names.add(name)

    def empty(self, *folders: Path) -> None:
        """These folders have to be empty, or gone, at the end."""
        self._empty += folders

    def found(self) -> list[str]:
        """What is there now that was not before, a line each."""
        lines: list[str] = []
        for kind, look in self._looks().items():
            before, after = self._before[kind], look()
            lines += [f"{kind}: {after[key]}" for key in after if key not in before]
        for folder in self._empty:
            with contextlib.suppress(FileNotFoundError):
                lines += [f"file: {path}" for path in sorted(folder.iterdir())]
        return lines

    def check(self, seconds: float = _SECONDS) -> None:
        """:raises AssertionError: something was left behind"""
        until = time.monotonic() + seconds
        while (lines := self.found()) and time.monotonic() < until:
            time.sleep(0.05)
        if lines:
            raise AssertionError("left behind:\n" + "\n".join(lines))

    def _looks(self) -> dict[str, Callable[[], dict[str, str]]]:
        return {
            "mount": self._mounts,
            "process": self._processes,
            "cgroup": self._cgroups,
            "network namespace": self._networks,
            "socket": self._sockets,
            **({"descriptor": lambda: _descriptors(self._polls)} if self._own else {}),
        }

    def _ours(self, text: str) -> bool:
        return any(name in text for name in self._names)

    def _mounts(self) -> dict[str, str]:
        lines = Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines()
        return {line.split(" ", 1)[0]: line for line in lines if self._ours(line)}

    def _processes(self) -> dict[str, str]:
        parents, told = _process_table()
        below = {os.getpid()}
        while more := {pid for pid, parent in parents.items() if parent in below} - below:
            below |= more
        # A shim's parent is init: its command line names the folder it works in.
        known = {pid for pid, text in told.items() if self._ours(text)}
        found = (below | known) - {os.getpid(), os.getppid()}
        return {f"{pid}@{_started(pid)}": f"{pid} {told.get(pid, '?')[:300]}" for pid in found}

    def _cgroups(self) -> dict[str, str]:
        lines = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
        tops = [line[4] for line in lines if line[line.index("-") + 1] in ("cgroup", "cgroup2")]
        found = (f"{folder}/{name}" for top in tops for folder, names, _ in os.walk(top) for name in names)
        return {path: path for path in found if self._ours(path.rpartition("/")[2])}

    def _networks(self) -> dict[str, str]:
        try:
            names = [path.name for path in _NAMESPACES.iterdir()]
        except FileNotFoundError:
            return {}
        return {name: str(_NAMESPACES / name) for name in names if self._ours(name)}

    def _sockets(self) -> dict[str, str]:
        lines = Path("/proc/net/unix").read_text(errors="replace").splitlines()[1:]
        paths = (line.split(maxsplit=7) for line in lines)
        return {fields[7]: fields[7] for fields in paths if len(fields) > 7 and self._ours(fields[7])}


def _process_table() -> tuple[dict[int, int], dict[int, str]]:
    parents: dict[int, int] = {}
    told: dict[int, str] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            if fields[0] == "Z":
                continue
            parents[int(entry.name)] = int(fields[1])
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            told[int(entry.name)] = f"{command} (in {(entry / 'cwd').readlink()})"
    return parents, told


def _started(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""


def _polls() -> int:
    return sum(target == _POLL for target in _links().values())


def _links() -> dict[str, str]:
    """What this process's descriptors are, by number."""
    found: dict[str, str] = {}
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208
        with contextlib.suppress(OSError):
            found[name] = os.readlink(f"/proc/self/fd/{name}")  # noqa: PTH115
    return found


def _descriptors(polls_before: int) -> dict[str, str]:
    links = _links()
    found = {
        f"{name} {target}": f"{name} -> {target}"
        for name, target in links.items()
        if not re.match(r"socket:|anon_inode:\[event|/proc/|/dev/null", target)
    }
    # An event loop that began meanwhile has an epoll and a pair of sockets, which are no leak; but a socket
    # beyond those is. An epoll that went says nothing: gRPC has some without sockets.
    begun = max(0, sum(target == _POLL for target in links.values()) - polls_before)
    sockets = sorted(target for target in links.values() if target.startswith("socket:"))
    for number, target in enumerate(sockets[: max(0, len(sockets) - 2 * begun)]):
        found[f"socket number {number}"] = f"one of {len(sockets)} sockets, {target}"
    return found


@pytest.fixture
def leftovers(tmp_path: Path) -> Generator[Leftovers]:
    """Fails the test if it leaves anything behind."""
    watch = Leftovers(str(tmp_path))
    yield watch
    watch.check()
