"""The demo of the README, from end to end."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.tmux import Terminal

SCRIPT = Path(__file__).parents[2] / "script" / "demo"


pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def scripted() -> Iterator[subprocess.Popen[str]]:
    """The demo without a person, which plays while another one has a person's."""
    with subprocess.Popen(
        [SCRIPT, "--script"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as demo:
        yield demo
        demo.terminate()


@pytest.mark.usefixtures("scripted")
def test_at_a_terminal_the_demo_sits_a_person_in_the_containers_shell(tmp_path: Path) -> None:
    with Terminal(tmp_path, os.environ) as terminal:
        terminal.type(f"{SCRIPT}; echo demo=$?")
        terminal.wait_for("/ # ", seconds=90)
        terminal.type("echo in $((40+2)); exit")
        terminal.wait_for("\nin 42")
        terminal.wait_for("demo=0", seconds=80)


def test_the_demo_does_its_work_and_leaves_nothing_behind(scripted: subprocess.Popen[str]) -> None:
    said, _ = scripted.communicate(timeout=170)
    assert scripted.returncode == 0, said
    for sign in ("hi 3", "no image at all", "layer ", "tick ", "(orlopd is back)", "nothing", "left behind"):
        assert sign in said
