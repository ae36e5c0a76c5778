"""The fixture that looks for what a test left behind finds each kind of thing."""

from __future__ import annotations

import os
import select
import socket
import subprocess
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from orlopd.plugin.mount import mount, unmount
from orlopd.plugin.values import Mount
from orlopd.testing.leftovers import Leftovers


@contextmanager
def _mounted(folder: Path) -> Generator[None]:
    mount(Mount("tmpfs", "tmpfs"), folder)
    yield
    unmount(folder)


@contextmanager
def _child(folder: Path) -> Generator[None]:
    with subprocess.Popen(["sleep", "60"]) as process:
        yield
        process.kill()


@contextmanager
def _orphan(folder: Path) -> Generator[None]:
    command = f"cd {folder}; sleep 60 >/dev/null 2>&1 & echo $!"
    done = subprocess.run(["setsid", "sh", "-c", command], capture_output=True, text=True, check=True)
    yield
    os.kill(int(done.stdout), 9)


@contextmanager
def _descriptor(folder: Path) -> Generator[None]:
    with (folder / "file").open("w"):
        yield


@contextmanager
def _pipe(folder: Path) -> Generator[None]:
    ends = os.pipe()
    yield
    for end in ends:
        os.close(end)


@contextmanager
def _listener(folder: Path) -> Generator[None]:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(folder / "sock"))
        server.listen()
        yield


@contextmanager
def _cgroup(folder: Path) -> Generator[None]:
    base = Path("/sys/fs/cgroup")
    if not (base / "cgroup.procs").exists():
        base /= "pids"
    group = base / f"orlop-test-{folder.parent.name}-{os.getpid()}"
    group.mkdir()
    yield
    group.rmdir()


@contextmanager
def _file(folder: Path) -> Generator[None]:
    (folder / "file").touch()
    yield
    (folder / "file").unlink()


@pytest.mark.parametrize(
    ("kind", "leave"),
    [
        ("mount", _mounted),
        ("process", _child),
        ("process", _orphan),
        ("descriptor", _descriptor),
        ("descriptor", _pipe),
        ("socket", _listener),
        ("cgroup", _cgroup),
        ("file", _file),
    ],
)
def test_it_finds(kind: str, leave: Callable[[Path], AbstractContextManager[None]], tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    watch = Leftovers(str(tmp_path))
    watch.watch(f"orlop-test-{tmp_path.name}-{os.getpid()}")
    assert watch.found() == []
    with leave(folder):
        if kind == "file":
            watch.empty(folder)
        found = watch.found()
        assert [line.split(":")[0] for line in found if line.startswith(kind)], found
        with pytest.raises(AssertionError, match="left behind"):
            watch.check(0.1)
    watch.check()


def test_an_epoll_that_goes_makes_no_leftover_of_a_socket_that_was_there_and_hides_none() -> None:
    with socket.socket():
        poll = select.epoll()
        watch = Leftovers()
        poll.close()
        assert watch.found() == []
        with socket.socket():
            assert [line.split(":")[0] for line in watch.found()] == ["descriptor"]


def test_names_that_may_be_anybodys_are_refused() -> None:
    with pytest.raises(ValueError, match="too short"):
        Leftovers().watch("a")
