"""A private orlopd for tests: own folders and socket, real clients bound to it, and nothing left of it."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self, TypeVar

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

T = TypeVar("T")
Run = subprocess.CompletedProcess[bytes]

BIN = Path(sys.executable).parent
READY_TIMEOUT = 60.0
PATIENCE = 20.0
"""Seconds in which what ends by itself has ended, on a machine as busy as it may be."""

_live: list[Daemon] = []


class Daemon:
    """An orlopd below a short folder of its own; a context manager that starts it, stops it and checks.

    :param config: what goes into its config file beside the folders
    :param options: further command line options
    :param environment: further environment variables
    :param plugins: drop-in plugins, source by file name
    """

    def __init__(
        self,
        config: str = "",
        *options: str,
        environment: Mapping[str, str] | None = None,
        plugins: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="o-", dir="/tmp"))
        self.root = self.folder / "r"
        self.state = self.folder / "s"
        self.socket = self.folder / "o.sock"
        self.address = f"unix://{self.socket}"
        self.config = self.folder / "config.toml"
        self.log_file = self.folder / "log"
        self.namespace = f"t{secrets.token_hex(4)}"
        drop_ins = self.folder / "plugins"
        drop_ins.mkdir()
        for name, source in (plugins or {}).items():
            (drop_ins / name).write_text(source)
        own = "" if "plugin_dirs" in config else f'plugin_dirs = ["{drop_ins}"]\n'
        self.config.write_text(f"{own}{config}\n")
        self._options = options
        self._environment = dict(environment or {})
        self._process: subprocess.Popen[bytes] | None = None

    # --- Its life ------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.remove()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            left = self._end()
        finally:
            self.remove()
        # What a failing test left is its own; the failure to show is the test's.
        if kind is None and left:
            raise AssertionError(f"left behind by orlopd: {'; '.join(left)}")

    @property
    def command(self) -> list[str]:
        """The command line."""
        places = ["--root", str(self.root), "--state", str(self.state), "--address", self.address]
        return [str(BIN / "orlopd"), "--config", str(self.config), *places, *self._options]

    @property
    def environment(self) -> dict[str, str]:
        """The environment of the daemon and of its clients."""
        return {
            **os.environ,
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "ORLOP_ADDRESS": self.address,
            "ORLOP_NAMESPACE": self.namespace,
            "CONTAINERD_NAMESPACE": self.namespace,
            **self._environment,
        }

    @property
    def pid(self) -> int:
        """Its process."""
        assert self._process is not None, "the daemon does not run"
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether its process is there."""
        return self._process is not None and self._process.poll() is None

    @property
    def log(self) -> str:
        """What it logged since the first start."""
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    def start(self) -> None:
        """Start it and wait until it serves."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager, self.log_file.open("ab") as log:
            place = self.folder / "notify"
            place.unlink(missing_ok=True)
            manager.bind(str(place))
            manager.settimeout(0.05)
            environment = {**self.environment, "NOTIFY_SOCKET": str(place)}
            self._process = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment
            )
            if self not in _live:
                _live.append(self)
            deadline = time.monotonic() + READY_TIMEOUT
            while not self._is_ready(manager):
                if not self.running or time.monotonic() > deadline:
                    raise RuntimeError(f"orlopd does not serve (code {self._process.poll()}):\n{self.log}")
        self.check_health()

    @staticmethod
    def _is_ready(manager: socket.socket) -> bool:
        try:
            return b"READY=1" in manager.recv(4096)
        except TimeoutError:
            return False

    def check_health(self) -> None:
        """Ask grpc.health.v1 whether it serves."""
        with self.channel() as channel:
            health: Any = health_pb2_grpc.HealthStub(channel)
            answer = health.Check(health_pb2.HealthCheckRequest(), timeout=PATIENCE, wait_for_ready=True)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING

    def stop(self, timeout: float = 30) -> int:
        """SIGTERM; its exit code."""
        assert self._process is not None, "the daemon does not run"
        self._process.terminate()
        code = self._process.wait(timeout)
        self._process = None
        return code

    def kill9(self) -> None:
        """SIGKILL: its containers are to live on."""
        assert self._process is not None, "the daemon does not run"
        self._process.send_signal(signal.SIGKILL)
        self._process.wait(PATIENCE)
        self._process = None

    def restart(self) -> None:
        """Stop it if it runs, and start it on the same folders."""
        if self.running:
            self.stop()
        self.start()

    # --- Its clients ---------------------------------------------------------------------------------

    def channel(self) -> grpc.Channel:
        """A blocking channel to it."""
        return grpc.insecure_channel(self.address)

    def run(self, *command: str | Path, stdin: bytes | str = b"", timeout: float = 30, **options: Any) -> Run:
        """Run a program that finds this daemon in its environment."""
        given = stdin.encode() if isinstance(stdin, str) else stdin
        environment = {**self.environment, **options.pop("env", {})}
        words = [str(word) for word in command]
        return subprocess.run(
            words, input=given, capture_output=True, timeout=timeout, env=environment, **options
        )

    def ctr(self, *words: str | Path, stdin: bytes | str = b"", timeout: float = 30, **options: Any) -> Run:
        """Run the real ``ctr``, in this daemon's own namespace unless ``words`` begin with ``-n``."""
        return self.run("ctr", "-a", self.socket, *words, stdin=stdin, timeout=timeout, **options)

    def orlop(self, *words: str | Path, stdin: bytes | str = b"", timeout: float = 30, **options: Any) -> Run:
        """Run ``orlop``, in this daemon's own namespace."""
        return self.run(BIN / "orlop", *words, stdin=stdin, timeout=timeout, **options)

    def must(self, done: Run) -> str:
        """What a program that succeeded wrote."""
        words = " ".join(map(str, done.args))
        said = done.stderr.decode(errors="replace") + done.stdout.decode(errors="replace")
        assert done.returncode == 0, f"{words}: exit code {done.returncode}\n{said}"
        return done.stdout.decode()

    def connect(self, namespace: str = "") -> Any:
        """The Python SDK's client, async; an async context manager."""
        import orlop

        return orlop.connect(self.address, namespace=namespace or self.namespace)

    # --- Its end -------------------------------------------------------------------------------------

    def left_behind(self) -> list[str]:
        """What is there of it beside files: processes, mounts, cgroups."""
        found = [f"process {pid}: {command}" for pid, command in processes_naming(str(self.folder)).items()]
        found += [f"mount {point}" for point in mounts_under(self.folder)]
        found += [f"cgroup {path}" for path in cgroups_of(self.namespace)]
        return found

    def _end(self) -> list[str]:
        stopped = True
        if self._process is not None:
            try:
                self.stop()
            except subprocess.TimeoutExpired:
                stopped = False
                self.kill9()
        left = eventually(self.left_behind, lambda found: not found, PATIENCE)
        if not stopped:
            left.insert(0, f"it did not stop after SIGTERM:\n{self.log}")
        return left

    def remove(self) -> None:
        """End and delete whatever there is of it."""
        if self._process is not None:
            self.kill9()
        for pid in processes_naming(str(self.folder)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        eventually(lambda: processes_naming(str(self.folder)), lambda found: not found, PATIENCE)
        for point in mounts_under(self.folder):
            subprocess.run(["umount", "-l", point], capture_output=True)
        for path in cgroups_of(self.namespace):
            _remove_cgroup(path)
        shutil.rmtree(self.folder, ignore_errors=True)
        if self in _live:
            _live.remove(self)


def eventually(look: Callable[[], T], good: Callable[[T], bool], seconds: float) -> T:
    """What ``look`` gives, asked until it is ``good`` or the time is over."""
    deadline = time.monotonic() + seconds
    while not good(found := look()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return found


def processes_naming(word: str) -> dict[int, str]:
    """The processes that have to do with a path, this one apart.

    They have it in their command line or environment, work in it, have files below it open, or have a root
    of their own and mounts from it. With the machine's root, what a mount namespace shows says nothing: who
    makes one, another test's runc for example, takes every mount along.
    """
    found: dict[int, str] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if any(word in trace for trace in (command, *_traces(entry))):
                found[int(entry.name)] = command.strip()
    return found


def _traces(process: Path) -> Iterator[str]:
    yield (process / "environ").read_text(errors="replace")
    yield str((process / "cwd").readlink())
    for descriptor in (process / "fd").iterdir():
        with contextlib.suppress(OSError):
            yield str(descriptor.readlink())
    if not (process / "root").samefile("/"):
        yield (process / "mountinfo").read_text(errors="replace")


def mounts_under(folder: Path) -> list[str]:
    """Mount points below ``folder``, deepest first."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    points = [line.split()[4].replace("\\040", " ") for line in lines]
    return sorted((p for p in points if p.startswith(f"{folder}/")), reverse=True)


def cgroups_of(namespace: str) -> list[Path]:
    """The cgroups of a namespace's containers, in every hierarchy, and the one that they lie in."""
    top = Path("/sys/fs/cgroup")
    above = (*top.glob(f"*/{namespace}"), *top.glob(namespace))
    places = (
        *top.glob(f"*/{namespace}/*/"),
        *top.glob(f"{namespace}/*/"),
        *top.glob(f"*/{namespace}:*/"),
        *above,
    )
    return [place for place in places if place.is_dir()]


def _remove_cgroup(path: Path) -> None:
    for inner in sorted((p for p in path.rglob("*") if p.is_dir()), reverse=True):
        with contextlib.suppress(OSError):
            inner.rmdir()
    with contextlib.suppress(OSError):
        path.rmdir()


def logs() -> Iterator[tuple[str, str]]:
    """The logs of the daemons that run, for the report of a failed test."""
    for daemon in _live:
        yield f"log of orlopd {daemon.folder}", daemon.log[-20_000:]


def refused(daemon: Daemon, *options: str) -> tuple[int, str]:
    """Start a daemon that is to refuse; its exit code and the one line it says."""
    done = daemon.run(*daemon.command, *options)
    said = done.stderr.decode()
    assert "Traceback" not in said
    assert done.stdout == b""
    assert said.count("\n") == 1, said
    assert said.startswith("orlopd: ")
    return done.returncode, said.removeprefix("orlopd: ").rstrip("\n")


@pytest.fixture
def idle() -> Iterator[Daemon]:
    """A daemon that is not started."""
    daemon = Daemon()
    yield daemon
    daemon.remove()


@pytest.fixture(scope="session")
def daemon() -> Iterator[Daemon]:
    """A daemon that tests of this worker share; each takes names and ids of its own."""
    with Daemon() as running:
        yield running


@pytest.fixture
def fresh_daemon() -> Iterator[Daemon]:
    """A daemon for one test alone, to be killed and restarted."""
    with Daemon() as running:
        yield running
