"""The demo of the README, from end to end."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.support.tmux import Terminal

SCRIPT = Path(__file__).parents[2] / "script" / "demo"


@pytest.mark.timeout(180)
def test_the_demo_does_its_work_and_leaves_nothing_behind() -> None:
    done = subprocess.run(
        [SCRIPT, "--script"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for sign in ("hi 3", "no image at all", "layer ", "tick ", "(orlopd is back)", "nothing", "left behind"):
        assert sign in done.stdout + done.stderr


@pytest.mark.timeout(180)
def test_at_a_terminal_the_demo_sits_a_person_in_the_containers_shell(tmp_path: Path) -> None:
    with Terminal(tmp_path, os.environ) as terminal:
        terminal.type(f"{SCRIPT}; echo demo=$?")
        terminal.wait_for("/ # ", seconds=90)
        terminal.type("echo in $((40+2)); exit")
        terminal.wait_for("\nin 42")
        terminal.wait_for("demo=0", seconds=80)
