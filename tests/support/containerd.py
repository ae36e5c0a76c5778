"""Debian's containerd as a private peer: its own folders, its own socket, ended with its shims."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.support.daemon import mounts_under, processes_naming

CONFIG = """
version = 2
root = "{folder}/root"
state = "{folder}/state"
disabled_plugins = {disabled}
[grpc]
address = "{folder}/containerd.sock"
{more}
"""


@dataclass(frozen=True)
class Peer:
    """A containerd that answers at ``address``."""

    address: str
    folder: Path


@contextlib.contextmanager
def containerd(path: str = "", more: str = "", disabled: Sequence[str] = ()) -> Iterator[Peer]:
    """Run containerd until the context is left; its shims and mounts go with it.

    :param path: folders, joined by ":", where it looks for programs first
    :param more: what goes into its config file besides
    :param disabled: plugins of its own not to load
    """
    with tempfile.TemporaryDirectory(prefix="ctrd-", dir="/tmp") as name:
        folder = Path(name)
        config = folder / "config.toml"
        off = json.dumps(["io.containerd.grpc.v1.cri", *disabled])
        config.write_text(CONFIG.format(folder=folder, disabled=off, more=more))
        address = str(folder / "containerd.sock")
        with (folder / "log").open("wb") as log:
            daemon = subprocess.Popen(
                ["containerd", "--config", str(config)],
                stdout=log,
                stderr=log,
                env={**os.environ, "PATH": f"{path}:{os.environ['PATH']}" if path else os.environ["PATH"]},
                start_new_session=True,
            )
        try:
            deadline = time.monotonic() + 20
            while subprocess.run(["ctr", "-a", address, "version"], capture_output=True).returncode:
                if daemon.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"containerd does not serve: {(folder / 'log').read_text()}")
                time.sleep(0.05)
            yield Peer(address, folder)
        finally:
            daemon.terminate()
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
            for pid in processes_naming(str(folder)):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)
            for point in mounts_under(folder):
                subprocess.run(["umount", "-l", point], capture_output=True)
