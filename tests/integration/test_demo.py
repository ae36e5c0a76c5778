"""The demo of the README, from end to end."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

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
