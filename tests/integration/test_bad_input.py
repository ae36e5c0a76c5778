"""Bad input gets one clear line and the right code, and leaves nothing behind."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tarfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

import orlop
from orlop.errors import InvalidArgument, NotFound
from orlop.values import Build
from tests.support.daemon import BIN, Daemon, Run


def complaint(done: Run, code: int) -> str:
    """What a failing command said: its line, and perhaps a hint."""
    said = done.stderr.decode()
    assert done.returncode == code, said
    assert "Traceback" not in said
    lines = said.strip().splitlines()
    assert 1 <= len(lines) <= 2, said
    assert lines[0].startswith("orlop: ")
    assert len(lines) == 1 or lines[1].startswith("hint: ")
    return said


@pytest.fixture(autouse=True)
def nothing_stays(daemon: Daemon, image: str) -> Iterator[None]:
    before = holdings(daemon)
    yield
    assert holdings(daemon) == before


def holdings(daemon: Daemon) -> list[str]:
    """Whatever a failed request might leave in the daemon."""
    return [
        daemon.must(daemon.orlop("ps", "-a", "--output", "json")),
        daemon.must(daemon.ctr("snapshots", "ls")),
        daemon.must(daemon.ctr("tasks", "ls")),
        daemon.must(daemon.ctr("leases", "ls")),
        daemon.must(daemon.ctr("containers", "ls", "-q")),
    ]


def test_an_unknown_image_on_a_registry_that_is_not_there(daemon: Daemon) -> None:
    said = complaint(daemon.orlop("run", "127.0.0.1:1/no/such:image", "true"), 125)
    assert "127.0.0.1:1" in said


def test_an_unknown_image_that_must_not_be_pulled(daemon: Daemon) -> None:
    said = complaint(daemon.orlop("run", "--pull", "never", "nosuch", "true"), 125)
    assert "docker.io/library/nosuch:latest" in said
    assert "not found" in said


@pytest.mark.parametrize(
    "reference", ["Upper/case", "a b", "name:", "name@sha256:12", "", "http://host/name"]
)
def test_a_malformed_reference(daemon: Daemon, reference: str) -> None:
    said = complaint(daemon.orlop("pull", reference), 1)
    assert reference in said or not reference


def test_a_command_that_is_not_in_the_image(daemon: Daemon, image: str) -> None:
    said = complaint(daemon.orlop("run", "--rm", image, "no-such-program"), 127)
    assert "no-such-program" in said


def test_a_command_that_cannot_be_executed(daemon: Daemon, image: str) -> None:
    said = complaint(daemon.orlop("run", "--rm", image, "/etc/passwd"), 126)
    assert "/etc/passwd" in said


def test_a_command_that_is_not_in_the_container_of_an_exec(daemon: Daemon, image: str) -> None:
    container = daemon.must(daemon.orlop("run", "-d", image, "sleep", "1000")).strip()
    try:
        assert "no-such-program" in complaint(daemon.orlop("exec", container, "no-such-program"), 127)
        assert "/etc/passwd" in complaint(daemon.orlop("exec", container, "/etc/passwd"), 126)
    finally:
        daemon.must(daemon.orlop("rm", "-f", container))


def test_a_truncated_archive(daemon: Daemon, archive: str, tmp_path: Path) -> None:
    short = tmp_path / "short.tar"
    whole = Path(archive).read_bytes()
    short.write_bytes(whole[: len(whole) // 2])
    before = daemon.must(daemon.ctr("content", "ls", "-q"))
    said = complaint(daemon.orlop("import", str(short)), 1)
    assert "truncated" in said or "ends" in said
    assert daemon.must(daemon.ctr("content", "ls", "-q")) == before


def test_an_archive_that_is_none(daemon: Daemon) -> None:
    complaint(daemon.orlop("import", "-", stdin="this is no archive\n" * 100), 1)


def test_an_archive_that_is_a_tar_of_something_else(daemon: Daemon, tmp_path: Path) -> None:
    other = tmp_path / "other.tar"
    (tmp_path / "file").write_text("hello")
    with tarfile.open(other, "w") as tar:
        tar.add(tmp_path / "file", "file")
    complaint(daemon.orlop("import", str(other)), 1)


def test_a_container_that_is_not_there(daemon: Daemon) -> None:
    for word in ("stop", "kill", "rm", "logs", "inspect", "wait", "start"):
        assert "nosuch" in complaint(daemon.orlop(word, "nosuch"), 1)
    for word in ("attach", "exec"):
        assert "nosuch" in complaint(daemon.orlop(word, "nosuch", *(["true"] if word == "exec" else [])), 125)


def test_a_name_that_is_taken(daemon: Daemon, image: str) -> None:
    daemon.must(daemon.orlop("create", "--name", "taken", image, "true"))
    said = complaint(daemon.orlop("create", "--name", "taken", image, "true"), 125)
    assert "taken" in said
    daemon.must(daemon.orlop("rm", "taken"))


def test_an_unknown_snapshotter_or_runtime(daemon: Daemon, image: str) -> None:
    said = complaint(daemon.orlop("run", "--snapshotter", "nosuch", image, "true"), 125)
    assert "nosuch" in said
    assert "overlayfs" in said
    said = complaint(daemon.orlop("run", "--runtime", "nosuch", image, "true"), 125)
    assert "nosuch" in said


def test_a_runtime_is_named_by_its_path_too(daemon: Daemon, image: str) -> None:
    runc = shutil.which("runc")
    assert runc is not None
    assert (
        daemon.must(daemon.orlop("run", "--rm", "--runtime", runc, image, "echo", "by path")) == "by path\n"
    )
    said = complaint(daemon.orlop("run", "--rm", "--runtime", "/no/such/runsc", image, "true"), 125)
    assert "OCI runtime '/no/such/runsc' is not there" in said


def test_a_working_directory_that_is_not_there_is_named(daemon: Daemon, image: str) -> None:
    daemon.must(daemon.orlop("run", "-d", "--name", "box", image, "sleep", "1000"))
    try:
        said = complaint(daemon.orlop("exec", "-w", "/no/such", "box", "true"), 125)
        assert "/no/such" in said
        assert "has no such working directory" in said
    finally:
        daemon.must(daemon.orlop("rm", "-f", "box"))


def test_a_working_directory_under_proc_self_fd_is_refused_cve_2024_21626(daemon: Daemon, image: str) -> None:
    said = complaint(daemon.orlop("run", "--rm", "-w", "/proc/self/fd/7", image, "true"), 125)
    assert "/proc/self/fd" in said


def test_a_missing_runc(archive: str) -> None:
    config = '[plugins.runtime."io.containerd.runc.v2"]\nbinary = "/nonexistent/runc"\n'
    with Daemon(config) as daemon:
        daemon.must(daemon.orlop("import", archive))
        said = complaint(daemon.orlop("run", "--rm", "probe", "true"), 125)
        assert "/nonexistent/runc" in said
        assert json.loads(daemon.must(daemon.orlop("ps", "-a", "--output", "json"))) == []


def test_no_daemon_at_the_address(tmp_path: Path) -> None:
    address = f"unix://{tmp_path}/none.sock"
    done = subprocess.run([BIN / "orlop", "--address", address, "ps"], capture_output=True, timeout=20)
    said = complaint(done, 1)
    assert str(tmp_path) in said
    assert "orlopd" in said


def test_a_socket_that_one_may_not_use(daemon: Daemon) -> None:
    daemon.folder.chmod(0o711)
    assert daemon.socket.stat().st_gid == 0
    # The interpreter itself may lie where nobody may look: the command drops its rights when all is imported.
    as_nobody = (
        "import os, sys; from orlop.cli import base, containers, main; import orlop.client;"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534);"
        "sys.argv = ['orlop', 'ps']; sys.exit(main.main())"
    )
    said = complaint(daemon.run(sys.executable, "-c", as_nobody), 1)
    assert "permission denied" in said.lower()
    assert "group root" in said


@pytest.mark.parametrize("method", ["Import", "Build", "CopyIn"])
async def test_an_upload_that_is_refused_early_tells_why(daemon: Daemon, method: str) -> None:
    piece = b"\xff" * (1 << 20)

    async def junk() -> AsyncIterator[bytes]:
        for _ in range(30):
            yield piece

    async with orlop.connect(daemon.address, namespace=daemon.namespace) as client:
        upload = {
            "Import": lambda: client.images.import_(junk()),
            "Build": lambda: client.images.build(Build(name="BAD NAME"), junk()),
            "CopyIn": lambda: client.containers.copy_in("nosuch", junk()),
        }[method]
        # What went wrong was a race, lost about every third time.
        for _ in range(10):
            with pytest.raises((InvalidArgument, NotFound)):
                await upload()
