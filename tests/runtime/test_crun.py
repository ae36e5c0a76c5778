"""What is asked of runc after a crash is asked of crun; the life of its tasks is in the kit's cells.

Debian's crun refuses a machine on which version 2 of control groups is mounted beside version 1 and has a
controller, so the tests run in a mount namespace without it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.mark.timeout(240)
def test_crun_recovers_as_runc() -> None:
    # What crun makes in the place of version 2 goes with the namespace.
    script = 'if mountpoint -q "$1"; then umount "$1" && mount -t tmpfs none "$1"; fi; shift; exec "$@"'
    pytest_line = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    done = subprocess.run(
        [
            "unshare",
            "-m",
            # Or it would keep what others unmount meanwhile: their disks, and loop devices.
            "--propagation",
            "slave",
            "sh",
            "-c",
            script,
            "sh",
            "/sys/fs/cgroup/unified",
            *pytest_line,
            str(HERE / "test_recovery.py"),
        ],
        env=os.environ | {"ORLOP_TEST_OCI_RUNTIME": "crun"},
        cwd=HERE.parents[1],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert "skipped" not in done.stdout
