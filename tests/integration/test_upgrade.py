"""Shims that an earlier installation started serve the daemon of today."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from orlop.values import ContainerState
from tests.support.daemon import Daemon, eventually, processes_naming

TOP = Path(__file__).parents[2]
PINNED = "a5ada26766b5122c72ed40567d842cb280b039b8"
"""A commit whose shims went by another way of ending, starting and keeping their journal."""
PACKAGES = ("daemon", "plugins")
WAITS = "trap 'exit 17' TERM; echo up; while :; do sleep 0.05; done"
ASKS = "echo asks; read line; echo got $line; exit 7"


def git(*words: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["git", "-C", str(TOP), *words], capture_output=True, timeout=60)


@pytest.fixture(scope="module")
def earlier() -> Iterator[Path]:
    """The packages as they were; a clone without that commit has the one before, or only itself to copy."""
    wanted = (os.environ.get("ORLOP_UPGRADE_FROM", PINNED), "HEAD~1", "HEAD")
    revision = next(name for name in wanted if git("cat-file", "-e", f"{name}^{{commit}}").returncode == 0)
    with tempfile.TemporaryDirectory(prefix="earlier-") as name:
        archived = git("archive", "--format=tar", revision, *PACKAGES)
        assert archived.returncode == 0, archived.stderr
        with tarfile.open(fileobj=io.BytesIO(archived.stdout)) as tar:
            tar.extractall(name, filter="data")
        print(f"shims of {git('log', '-1', '--format=%h %s', revision).stdout.decode().strip()}")  # noqa: T201
        yield Path(name)


@pytest.mark.timeout(180)
async def test_shims_of_an_earlier_installation_are_taken_over(
    earlier: Path, archive: str, idle: Daemon, tmp_path: Path
) -> None:
    daemon = idle
    paths = ":".join(str(earlier / package) for package in PACKAGES)
    daemon._environment["PYTHONPATH"] = paths
    daemon.start()
    try:
        # By containerd's API: the earlier daemon knows only what today's protos still have of the engine's.
        daemon.must(daemon.ctr("images", "import", archive))
        daemon.must(daemon.orlop("run", "-d", "--name", "waits", "probe", "sh", "-c", WAITS))
        daemon.must(daemon.orlop("run", "-d", "-i", "-t", "--name", "asks", "probe", "sh", "-c", ASKS))
        daemon.must(
            daemon.orlop("run", "-d", "--name", "brief", "probe", "sh", "-c", "sleep 1; echo bye; exit 42")
        )
        daemon.must(daemon.ctr("run", "-d", "docker.io/library/probe:latest", "ctrs", "sh", "-c", WAITS))
        assert paths in environment_of_the_fork_server(daemon), "its shims are not the earlier ones"
        daemon.kill9()
        shutil.rmtree(earlier / "daemon")  # an upgrade replaces the files that they came from
        shutil.rmtree(earlier / "plugins")
        del daemon._environment["PYTHONPATH"]
        daemon.start()

        async with daemon.connect() as client:
            listed = {each.name: each for each in await client.containers.list()}
            assert listed["waits"].state is ContainerState.RUNNING
            assert listed["asks"].state is ContainerState.RUNNING
            assert (await client.containers.wait("brief")).code == 42
            assert [line.data async for line in client.containers.logs("brief")] == [b"bye\n"]
            async with client.containers.exec("waits", ("sh", "-c", "exit 9")) as session:
                assert (await session.wait()).code == 9
            async with client.containers.attach("asks", scrollback=True) as session:
                await session.write(b"it\n")
                said = b"".join([output.data async for output in session])
                assert b"asks" in said
                assert b"got it" in said
                assert (await session.wait()).code == 7
            await client.containers.pause("waits")
            await client.containers.resume("waits")
            assert [usage async for usage in client.containers.stats("waits", once=True)]
            assert (await client.containers.stop("waits")).code == 17
            for name in ("waits", "asks", "brief"):
                await client.containers.remove(name)
        assert "RUNNING" in daemon.must(daemon.ctr("tasks", "ls"))
        daemon.must(daemon.ctr("tasks", "kill", "-s", "TERM", "ctrs"))
        eventually(lambda: daemon.ctr("tasks", "ls").stdout, lambda said: b"STOPPED" in said, 30)
        assert b"exit code 17" in daemon.ctr("tasks", "rm", "ctrs").stderr
        daemon.must(daemon.ctr("containers", "rm", "ctrs"))
        assert json.loads(daemon.must(daemon.orlop("ps", "-a", "--output", "json"))) == []
        assert eventually(lambda: shims(daemon), lambda found: not found, 30) == []
    finally:
        if daemon.running:
            daemon.stop()


def environment_of_the_fork_server(daemon: Daemon) -> str:
    """What the shims have of it; a shim's own title lies over its environment."""
    for pid, command in processes_naming(str(daemon.state)).items():
        if "oci.shim.zygote" in command:
            return Path(f"/proc/{pid}/environ").read_text()
    raise AssertionError("there is no fork server")


def shims(daemon: Daemon) -> list[int]:
    """The shims of a daemon."""
    found: list[int] = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = entry.read_text()
        except OSError:
            continue
        if words.startswith("orlop-shim") and str(daemon.folder) in words:
            found.append(int(entry.parent.name))
    return found
