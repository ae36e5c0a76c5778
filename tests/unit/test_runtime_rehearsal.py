"""The life that the fork server plays before its first fork is a whole one, and leaves nothing."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from orlop_plugins.oci.shim.rehearsal import live

PLAYED = """
import os, sys, threading
from orlop_plugins.oci.shim import rehearsal

before = sorted(os.listdir("/proc/self/fd"))
rehearsal.play()
assert threading.active_count() == 1
assert sorted(os.listdir("/proc/self/fd")) == before
assert not open(f"/proc/self/task/{os.getpid()}/children").read()
print(len(os.listdir("/proc/self/task")))
"""


def test_every_answer_but_the_one_for_a_container_that_is_not_there_is_good(tmp_path: Path) -> None:
    answers = asyncio.run(live(tmp_path))
    assert [answer.status.code for answer in answers] == [0, 5, 0, 0, 0, 0, 0, 0, 0]


def test_nothing_is_left_that_a_fork_would_inherit(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PLAYED],
        env=os.environ | {"TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr
    assert list(tmp_path.iterdir()) == []


def test_one_that_fails_is_told_and_does_no_harm(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from orlop_plugins.oci.shim import rehearsal

    monkeypatch.setenv("PATH", "/nonexistent")
    with caplog.at_level(logging.WARNING):
        rehearsal.play()
    assert "the rehearsal of a shim failed" in caplog.text
