"""A signal for a process waits until it is the program, and no longer the runtime's init."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import anyio
import pytest

from orlop_plugins.oci.shim.begun import Begun

pytestmark = pytest.mark.anyio

BECOMES_SLEEP = """
import os, sys
open("/proc/self/comm", "w").write(sys.argv[1])
print(flush=True)
sys.stdin.readline()
os.execvp("sleep", ["sleep", "100"])
"""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@contextmanager
def process(called: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process of that name which executes another program once it reads a line."""
    with subprocess.Popen(
        [sys.executable, "-c", BECOMES_SLEEP, called], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as started:
        try:
            assert started.stdout is not None
            started.stdout.readline()
            yield started
        finally:
            started.kill()


def program(pid: int) -> str:
    return os.path.basename(os.readlink(f"/proc/{pid}/exe"))  # noqa: PTH115, PTH119


@pytest.mark.parametrize(
    ("called", "binary"),
    [("runc:[2:INIT]", "runc"), ("python", sys.executable)],
    ids=["a copy of the runtime", "the runtime itself"],
)
async def test_an_exec_that_is_the_runtimes_init_is_waited_for(
    called: str, binary: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orlop_plugins.oci.shim.begun._PATIENCE", 1000)
    with process(called) as started:
        begun = Begun.of_exec(started.pid, binary)
        with anyio.move_on_after(0.1) as early:
            await begun.wait()
        assert early.cancelled_caught
        assert started.stdin is not None
        started.stdin.write(b"\n")
        started.stdin.flush()
        await begun.wait()
        assert program(started.pid) == program_of_sleep()


async def test_an_exec_that_is_its_program_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orlop_plugins.oci.shim.begun._PATIENCE", 1000)
    with process("runc") as started, anyio.fail_after(30):
        await Begun.of_exec(started.pid, "/usr/sbin/runc").wait()


async def test_one_that_stays_the_init_is_not_waited_for_without_end() -> None:
    with process("runc:[2:INIT]") as started, anyio.fail_after(30):
        await Begun.of_exec(started.pid, "runc").wait()


def program_of_sleep() -> str:
    with subprocess.Popen(["sleep", "100"]) as started:
        try:
            return program(started.pid)
        finally:
            started.kill()
