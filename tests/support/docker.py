"""Debian's dockerd on a containerd socket that may be ours, in a network namespace of its own."""

from __future__ import annotations

import contextlib
import os
import secrets
import shlex
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support.daemon import mounts_under

CLIENT = "/usr/bin/docker" if Path("/usr/bin/docker").exists() else "docker"
"""The client of the same package, where there are two."""


@dataclass(frozen=True)
class Docker:
    """A dockerd that answers at ``socket``."""

    socket: str
    log: Path

    def __call__(self, *words: str, stdin: str = "", timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """Run the ``docker`` command."""
        return subprocess.run(
            [CLIENT, "-H", f"unix://{self.socket}", *words],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    def must(self, *words: str, stdin: str = "") -> str:
        """What a command that has to succeed writes."""
        done = self(*words, stdin=stdin)
        assert done.returncode == 0, (
            f"docker {shlex.join(words)}: {done.stderr}\n{self.log.read_text()[-3000:]}"
        )
        return done.stdout


@contextlib.contextmanager
def dockerd(containerd: str) -> Iterator[Docker]:
    """Run dockerd until the context is left.

    :param containerd: the path of the socket that it is to use
    """
    space = f"orlop-docker-{secrets.token_hex(4)}"
    with tempfile.TemporaryDirectory(prefix="dk-", dir="/tmp") as name:
        folder = Path(name)
        subprocess.run(["ip", "netns", "add", space], check=True)
        try:
            subprocess.run(["ip", "-n", space, "link", "set", "lo", "up"], check=True)
            yield from _serve(folder, space, containerd)
        finally:
            subprocess.run(["ip", "netns", "del", space], check=True)
            for group in Path("/sys/fs/cgroup").glob(f"*/{space}"):
                group.rmdir()
            for point in sorted(mounts_under(folder), reverse=True):
                subprocess.run(["umount", "-l", point], capture_output=True)


def _serve(folder: Path, space: str, containerd: str) -> Iterator[Docker]:
    docker = Docker(str(folder / "d.sock"), folder / "log")
    # Not `ip netns exec`: it mounts /sys anew, and the control groups are gone.
    line = ["nsenter", f"--net=/run/netns/{space}", "dockerd", "--containerd", containerd]
    line += ["--data-root", folder / "root", "--exec-root", folder / "exec", "--pidfile", folder / "pid"]
    line += ["--host", f"unix://{docker.socket}", "--storage-driver", "overlay2"]
    line += ["--cgroup-parent", f"/{space}"]
    environment = {**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
    with docker.log.open("wb") as log:
        daemon = subprocess.Popen(line, stdout=log, stderr=log, env=environment, start_new_session=True)
    try:
        deadline = time.monotonic() + 60
        while docker("version").returncode:
            if daemon.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"dockerd does not serve: {docker.log.read_text()[-3000:]}")
            time.sleep(0.1)
        yield docker
    finally:
        daemon.terminate()
        try:
            daemon.wait(30)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()
