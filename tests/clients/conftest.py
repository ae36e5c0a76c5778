"""The pretended engine, and the `orlop` command run against it, by pipes or in a terminal."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pytest

ORLOP = Path(sys.executable).parent / "orlop"
ROOT = Path(__file__).parents[2]
SECONDS = 30.0


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


class World:
    """A namespace of the pretended engine, and the command's view of it."""

    def __init__(self, address: str, records: Path) -> None:
        self.address = address
        self.namespace = f"n{uuid.uuid4().hex[:12]}"
        self._records = records

    @property
    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "ORLOP_ADDRESS": self.address,
            "ORLOP_NAMESPACE": self.namespace,
            "TERM": "xterm",
        }

    @property
    def tar(self) -> Path:
        """What was uploaded last."""
        return self._records / f"{self.namespace}.tar"

    def start(self, *arguments: str, **streams: Any) -> subprocess.Popen[bytes]:
        return cast(
            "subprocess.Popen[bytes]", subprocess.Popen([ORLOP, *arguments], env=self.environment, **streams)
        )

    def run(self, *arguments: str, input: bytes = b"", **settings: Any) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [ORLOP, *arguments],
            env=self.environment,
            input=input,
            capture_output=True,
            timeout=SECONDS,
            check=False,
            **settings,
        )

    def ok(self, *arguments: str, input: bytes = b"") -> str:
        """Standard output of a command that must succeed."""
        done = self.run(*arguments, input=input)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode()

    def records(self, key: str) -> list[dict[str, Any]]:
        """What the engine was asked that has this key."""
        path = self._records / self.namespace
        lines = path.read_text().splitlines() if path.exists() else []
        return [record for record in map(json.loads, lines) if key in record]

    def record(self, key: str) -> dict[str, Any]:
        """The one such record, waiting for it."""
        eventually(lambda: self.records(key))
        [found] = self.records(key)
        return found


def eventually(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.01)


class Screen:
    """The command in a terminal of its own."""

    def __init__(
        self,
        world: World,
        *arguments: str,
        command: str | Path = ORLOP,
        rows: int = 24,
        columns: int = 80,
        **settings: Any,
    ) -> None:
        self.master, self.slave = pty.openpty()
        self.resize(rows, columns)
        self.before = termios.tcgetattr(self.slave)
        self.seen = b""
        self.process = subprocess.Popen(
            [command, *arguments],
            env=world.environment,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
            **{"stdin": self.slave, "stdout": self.slave, "stderr": self.slave, **settings},
        )

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, data: bytes) -> None:
        os.write(self.master, data)

    def expect(self, text: bytes) -> bytes:
        """Wait for something to appear; what came up to it is returned and gone."""
        deadline = time.monotonic() + SECONDS
        while text not in self.seen:
            left = deadline - time.monotonic()
            assert left > 0, f"{text!r} did not appear in {self.seen!r}"
            if select.select([self.master], [], [], left)[0]:
                self.seen += os.read(self.master, 65536)
        before, _, self.seen = self.seen.partition(text)
        return before + text

    def wait(self) -> int:
        """The exit code, once it has ended; what it writes is drained meanwhile."""
        deadline = time.monotonic() + SECONDS
        while self.process.poll() is None:
            assert time.monotonic() < deadline, f"it does not end: {self.seen!r}"
            if select.select([self.master], [], [], 0.05)[0]:
                self.seen += os.read(self.master, 65536)
        return self.process.returncode

    @property
    def raw(self) -> bool:
        return not termios.tcgetattr(self.slave)[3] & termios.ICANON

    def restored(self) -> bool:
        return termios.tcgetattr(self.slave) == self.before

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        os.close(self.master)
        os.close(self.slave)


@contextmanager
def engine_process(folder: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A pretended engine with its socket and its records in a folder."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.clients.engine", folder / "s", folder / "records"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        yield process, f"unix://{folder / 's'}"
        process.terminate()


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    folder = tmp_path_factory.mktemp("engine")
    (folder / "records").mkdir()
    with engine_process(folder) as (_, address):
        yield address, folder / "records"


@pytest.fixture
def world(engine: tuple[str, Path]) -> World:
    return World(*engine)


@pytest.fixture
def screen(world: World) -> Iterator[Callable[..., Screen]]:
    opened: list[Screen] = []

    def open_screen(*arguments: str, **settings: Any) -> Screen:
        opened.append(Screen(world, *arguments, **settings))
        return opened[-1]

    yield open_screen
    for one in opened:
        one.close()
