"""What an operator sees of shims, by the API; and that errors of theirs say where to look."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orlop_protos.orlop.engine.v1 import shims_pb2, shims_pb2_grpc
from orlopd.plugin import mount
from orlopd.plugin.values import Mount
from tests.support.daemon import Daemon, eventually


@pytest.fixture
def box(daemon: Daemon, image: str) -> Iterator[str]:
    daemon.must(daemon.orlop("run", "-d", "--name", "seen", "probe", "sleep", "1000"))
    yield "seen"
    daemon.orlop("rm", "-f", "seen")


def shim(daemon: Daemon, name: str) -> dict[str, Any]:
    (found,) = json.loads(daemon.must(daemon.orlop("shim", "inspect", name)))
    return found


def test_a_shim_is_told_as_the_process_that_it_is(daemon: Daemon, box: str) -> None:
    found = shim(daemon, box)
    (container,) = json.loads(daemon.must(daemon.orlop("inspect", box)))
    assert found["container"] == container["id"]
    assert found["container_pid"] == container["pid"]
    parent = Path(f"/proc/{container['pid']}/stat").read_text().rpartition(")")[2].split()[1]
    assert found["pid"] == int(parent), "the shim is the container's parent"
    assert Path(found["address"]).is_socket()
    assert found["runtime"] == "io.containerd.runc.v2"
    assert found["runtime_binary"].endswith("/runc")
    assert (found["protocol"], found["problem"]) == ("ttrpc", "")
    assert found["version"]
    assert 0 < found["memory_bytes"] < 64 << 20
    assert Path(found["log"]).parent == Path(found["bundle"])
    line = daemon.must(daemon.orlop("shim", "ls")).splitlines()[1].split()
    assert (line[1], line[2]) == (box, str(found["pid"]))


def test_the_shims_log_is_read_by_the_api_alone(daemon: Daemon, box: str) -> None:
    path = Path(shim(daemon, box)["log"])
    said = path.read_bytes() if path.exists() else b""
    with path.open("ab") as file:
        file.write(b"a line of a shim\n")
    assert daemon.orlop("shim", "logs", box).stdout == said + b"a line of a shim\n"
    with daemon.channel() as channel:
        stub: Any = shims_pb2_grpc.ShimServiceStub(channel)
        request = shims_pb2.ReadShimLogRequest(container=box)
        pieces = stub.ReadShimLog(request, metadata=[("containerd-namespace", daemon.namespace)])
        assert b"".join(each.data for each in pieces).endswith(b"a line of a shim\n")


def test_a_log_that_is_a_symlink_is_not_followed(daemon: Daemon, box: str) -> None:
    path = Path(shim(daemon, box)["log"])
    path.unlink(missing_ok=True)
    path.symlink_to("/etc/hostname")
    done = daemon.orlop("shim", "logs", box)
    assert (done.returncode, done.stdout) == (1, b"")


def test_one_that_is_gone_is_told_with_where_its_log_lies(daemon: Daemon, box: str) -> None:
    before = shim(daemon, box)
    with Path(before["log"]).open("a") as file:
        file.write("said before\n")
    os.kill(before["pid"], signal.SIGKILL)
    after = eventually(lambda: shim(daemon, box), lambda found: bool(found["problem"]), 30)
    assert (after["pid"], after["problem"]) == (0, "the shim is gone")
    said = daemon.must(daemon.orlop("shim", "logs", box))
    assert said.splitlines()[0] == "said before"
    assert "the shim is gone without a word" in said
    lost = re.compile(r"Exited \(137\) [^,]+, shim lost +seen$")
    listed = eventually(
        lambda: daemon.must(daemon.orlop("ps", "-a")).strip(), lambda said: bool(lost.search(said)), 20
    )
    assert lost.search(listed)
    (container,) = json.loads(daemon.must(daemon.orlop("inspect", box)))
    assert (container["exit"]["code"], container["exit"]["reason"]) == (137, "shim lost")
    done = daemon.orlop("exec", box, "true")
    assert done.returncode
    refused = daemon.orlop("pause", box)
    assert b"does not run" in refused.stderr
    told = daemon.ctr("task", "pause", before["container"])
    assert b"shim was lost" in told.stderr
    daemon.must(daemon.orlop("start", box))
    assert shim(daemon, box)["problem"] == "", "another looks after it now"
    assert b"gone" not in daemon.orlop("shim", "logs", box).stdout
    kept = Path(before["bundle"]).parents[2] / "failed" / f"{daemon.namespace}.{before['container']}.log"
    assert "said before" in kept.read_text()
    assert "the shim is gone" in kept.read_text()


def test_a_container_without_one_is_an_error(daemon: Daemon, image: str) -> None:
    daemon.must(daemon.orlop("create", "--name", "idle", "probe", "true"))
    done = daemon.orlop("shim", "inspect", "idle")
    assert b"has no shim" in done.stderr
    assert done.returncode == 1
    daemon.must(daemon.orlop("rm", "idle"))


@pytest.fixture
def places(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Files and folders that are wrong in some way, by the word that stands for each."""
    made = {name: str(tmp_path / name) for name in ("UNKNOWN", "STRICT", "READONLY", "SCRIPT")}
    (tmp_path / "UNKNOWN").write_text('{"defaultAction": "SCMP_ACT_NONE"}')
    (tmp_path / "STRICT").write_text('{"defaultAction": "SCMP_ACT_ERRNO"}')
    (tmp_path / "SCRIPT").write_text("#!/bin/sh\necho no runtime\n")
    (tmp_path / "SCRIPT").chmod(0o755)
    root = tmp_path / "READONLY"
    (root / "bin").mkdir(parents=True)
    shutil.copy("/bin/busybox", root / "bin/true")
    for name in ("proc", "dev", "sys", "etc"):
        (root / name).mkdir()
    mount.mount(Mount("bind", str(root), options=("bind", "ro")), root)
    yield made
    mount.unmount(root)


@pytest.mark.parametrize(
    ("options", "command", "cause", "hint"),
    [
        ((), "nosuch-program", "nosuch-program", "no program 'nosuch-program'"),
        ((), "/etc/passwd", "permission denied", "'/etc/passwd' cannot be executed"),
        (("--sysctl", "net.ipv4.nosuch=1"), "true", "net/ipv4/nosuch", "no setting net.ipv4.nosuch"),
        (("-v", "/etc/hostname:/bin"), "true", "not a directory", "mount a file on a file"),
        (("-w", "/bin/busybox/x"), "true", "not a directory", "the working directory"),
        (("--security-opt", "seccomp=UNKNOWN"), "true", "SCMP_ACT_NONE", "the seccomp profile"),
        (
            ("--security-opt", "seccomp=STRICT"),
            "true",
            "ended with code",
            "its seccomp profile is too strict",
        ),
        (("--rootfs", "READONLY", "-v", "/etc:/no"), "/bin/true", "read-only file system", "read-only root"),
        (("--runtime", "SCRIPT"), "true", "told of no process", "no OCI runtime"),
        (("--cgroup-conf", "memory.high=1M"), "true", "unified", "--cgroup-conf is for version 2"),
    ],
)
def test_what_a_runtime_refuses_has_a_cause_a_hint_and_a_log_that_is_there(
    daemon: Daemon,
    image: str,
    places: dict[str, str],
    options: tuple[str, ...],
    command: str,
    cause: str,
    hint: str,
) -> None:
    words = [re.sub("|".join(places), lambda found: places[found[0]], word) for word in options]
    from_image = [] if "--rootfs" in options else ["probe"]
    done = daemon.orlop("run", "--rm", *words, *from_image, command)
    said = done.stderr.decode()
    assert done.returncode
    assert cause in said
    told = next(line for line in said.splitlines() if line.startswith("hint: "))
    assert hint in told
    log = Path(told.rpartition("the shim's log is ")[2])
    assert cause in log.read_text()
    assert log.parent.stat().st_mode & 0o077 == 0, "it may tell what a container was given"
