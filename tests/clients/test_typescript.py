"""The client in clients/typescript: from the protos alone, and small."""

from __future__ import annotations

import fcntl
import subprocess
from typing import Any

import pytest

from tests.clients.conftest import ROOT, eventually

FOLDER = ROOT / "clients" / "typescript"
INSTALL_SECONDS = 300


@pytest.fixture(scope="module")
def program() -> str:
    """The compiled client; strict type checking is part of compiling."""
    compiled = FOLDER / "dist" / "main.js"
    (ROOT / ".build").mkdir(exist_ok=True)
    with (ROOT / ".build" / "typescript.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        installed = FOLDER / "node_modules" / ".package-lock.json"
        wanted = FOLDER / "package-lock.json"
        if not installed.exists() or installed.stat().st_mtime < wanted.stat().st_mtime:
            npm("ci", "--ignore-scripts")
        if not compiled.exists() or compiled.stat().st_mtime < (FOLDER / "main.ts").stat().st_mtime:
            npm("run", "--silent", "build")
    return str(compiled)


def npm(*arguments: str) -> None:
    done = subprocess.run(
        ["npm", *arguments], cwd=FOLDER, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_it_has_at_most_80_lines() -> None:
    assert len((FOLDER / "main.ts").read_text().splitlines()) <= 80


@pytest.mark.timeout(INSTALL_SECONDS)
def test_it_pulls_with_progress_and_passes_input_output_and_exit_code_on(program: str, world: Any) -> None:
    def run(*arguments: str, data: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            ["node", program, world.address, "any", *arguments],
            env=world.environment,
            input=data,
            capture_output=True,
            timeout=20,
            check=False,
        )

    done = run("--plain-http", "--", "cat", data=b"hello")
    assert (done.returncode, done.stdout) == (0, b"hello")
    assert b"aaaaaaaaaaaa fetching 0%\n" in done.stderr
    assert b"bbbbbbbbbbbb unpacked 100%\n" in done.stderr
    assert world.record("plain_http")["plain_http"]
    assert run("--", "exit", "7").returncode == 7
    assert run("--", "count", data=b"x" * 3_000_000).stdout == b"3000000\n"
    done = run("--", "nothing")
    assert (done.returncode, done.stderr.splitlines()[-1]) == (125, b'error: cannot run "nothing"')


@pytest.mark.timeout(INSTALL_SECONDS)
def test_it_holds_a_terminal(program: str, world: Any, screen: Any) -> None:
    shown = screen(program, world.address, "any", "--", "cat", command="node", rows=30, columns=100)
    eventually(lambda: shown.raw)
    shown.type(b"hello")
    shown.expect(b"hello")
    shown.resize(40, 120)
    shown.expect(b"size 40 120")
    shown.type(b"\x03")
    shown.expect(b"\x03")
    shown.type(b"exit 7")
    assert shown.wait() == 7
    assert shown.restored()
    assert world.record("run")["window"] == [100, 30]
