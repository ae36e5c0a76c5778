"""Containers with ids of their own: root inside is somebody without rights outside."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import orlop.sync
from orlop import errors
from tests.support.daemon import Daemon

MAP = ("--uidmap", "0:100000:65536", "--gidmap", "0:200000:65536")


@pytest.fixture(autouse=True)
def reachable(daemon: Daemon, image: str) -> Iterator[None]:
    """Root inside must get to its root filesystem through the test's own folder."""
    daemon.folder.chmod(0o711)
    yield
    daemon.folder.chmod(0o700)


def inside(daemon: Daemon, script: str, *options: str) -> str:
    return daemon.must(daemon.orlop("run", "--rm", *MAP, *options, "probe", "sh", "-c", script))


@pytest.fixture(params=["overlayfs", "vfs"])
def running(daemon: Daemon, request: pytest.FixtureRequest) -> Iterator[tuple[str, int]]:
    """A container on each snapshotter, by name, and its main process outside."""
    name = f"u-{request.param}"
    options = ("-d", "--name", name, "--snapshotter", request.param, "-m", "64m", *MAP)
    daemon.must(daemon.orlop("run", *options, "probe", "sh", "-c", "echo mine > /made; exec sleep 1000"))
    (seen,) = json.loads(daemon.must(daemon.orlop("inspect", name)))
    yield name, seen["pid"]
    daemon.must(daemon.orlop("rm", "-f", name))


def test_root_inside_is_the_mapped_user_outside(daemon: Daemon, running: tuple[str, int]) -> None:
    name, pid = running
    assert daemon.must(daemon.orlop("exec", name, "id", "-u")) == "0\n"
    found = os.stat(f"/proc/{pid}")  # noqa: PTH116
    assert (found.st_uid, found.st_gid) == (100000, 200000)
    assert os.readlink(f"/proc/{pid}/ns/user") != os.readlink("/proc/self/ns/user")  # noqa: PTH115


def test_files_belong_to_whom_they_should_and_new_ones_too(daemon: Daemon, running: tuple[str, int]) -> None:
    name, pid = running
    script = "stat -c %u:%g /bin/busybox /etc/passwd /etc/hosts /root /made; echo more >> /etc/passwd"
    assert daemon.must(daemon.orlop("exec", name, "sh", "-c", script)) == "0:0\n" * 5
    made = Path(f"/proc/{pid}/root/made").stat()
    assert (made.st_uid, made.st_gid) == (100000, 200000)


@pytest.mark.parametrize("snapshotter", ["overlayfs", "vfs"])
def test_files_that_are_copied_in_belong_to_whom_they_name_inside(
    daemon: Daemon, tmp_path: Path, snapshotter: str
) -> None:
    (tmp_path / "in").mkdir()
    file = tmp_path / "in/file"
    file.write_text("copied")
    os.chown(file, 1000, 1000)
    script = "stat -c %u:%g /new /new/deep /new/deep/in /new/deep/in/file; cat /new/deep/in/file"
    options = ("--copy", f"{tmp_path / 'in'}:/new/deep/", "--snapshotter", snapshotter)
    owners = "0:0\n" * 4
    assert inside(daemon, script, *options) == owners + "copied"


def test_owners_of_copied_files_are_mapped_and_must_be_there(daemon: Daemon) -> None:
    made = daemon.must(daemon.orlop("create", *MAP, "probe", "stat", "-c", "%u:%g:%a", "/file")).strip()
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        entry = tarfile.TarInfo("file")
        entry.uid = 70_000
        tar.addfile(entry)
    with orlop.sync.connect(daemon.address, namespace=daemon.namespace) as client:
        with pytest.raises(errors.InvalidArgument, match="user 70000"):
            client.containers.copy_in(made, [data.getvalue()])
        entry.uid, entry.mode = 1000, 0o4755
        data = io.BytesIO()
        with tarfile.open(fileobj=data, mode="w") as tar:
            tar.addfile(entry)
        assert client.containers.copy_in(made, [data.getvalue()]) == 0
        with client.containers.start(made, attach=True) as session:
            assert b"".join(piece.data for piece in session) == b"1000:0:4755\n"
    daemon.must(daemon.orlop("rm", made))


def test_a_volume_belongs_to_the_root_of_the_container_it_is_made_for(daemon: Daemon) -> None:
    assert inside(daemon, "echo x >/keep/file; stat -c %u:%g /keep", "-v", "mapped:/keep") == "0:0\n"
    daemon.must(daemon.orlop("volume", "rm", "mapped"))


def test_cve_2025_47291_its_cgroup_lies_where_that_of_any_container_does(
    daemon: Daemon, running: tuple[str, int]
) -> None:
    name, pid = running
    (seen,) = json.loads(daemon.must(daemon.orlop("inspect", name)))
    places = {line.rpartition(":")[2] for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines()}
    assert places == {f"/{daemon.namespace}/{seen['id']}"}
    limit = Path(f"/sys/fs/cgroup/memory/{daemon.namespace}/{seen['id']}/memory.limit_in_bytes")
    assert limit.read_text() == f"{64 << 20}\n"
    assert "/sys/devices/virtual/powercap" in seen["oci_spec"]["linux"]["maskedPaths"]
    shown = daemon.orlop("exec", name, "ls", "-A", "/sys/devices/virtual/powercap")
    assert shown.stdout == b""


def test_it_starts_again_with_what_it_wrote(daemon: Daemon, running: tuple[str, int]) -> None:
    name, _ = running
    daemon.must(daemon.orlop("stop", "-t", "0", name))
    daemon.must(daemon.orlop("start", name))
    assert daemon.must(daemon.orlop("exec", name, "stat", "-c", "%u", "/made")) == "0\n"


def test_streams_can_be_opened_anew_and_the_hosts_network_shared(daemon: Daemon) -> None:
    assert (
        inside(daemon, "echo said > /dev/stdout; ls /sys/class | grep -x net", "--net", "host")
        == "said\nnet\n"
    )


def test_an_empty_root_and_a_directory_are_mapped_too(daemon: Daemon, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    shutil.copy("/bin/busybox", tmp_path / "bin/sh")
    command = ("/bin/sh", "-c", "echo x > /made; stat -c %u /bin/sh /made")
    assert daemon.must(daemon.orlop("run", "--rm", *MAP, "--rootfs", tmp_path, *command)) == "0\n0\n"
    made = (tmp_path / "made").stat()
    assert (made.st_uid, made.st_gid) == (0, 0), "what a container writes into a directory is as it says"


def test_ranges_of_a_user_are_taken_from_the_machine(daemon: Daemon) -> None:
    done = daemon.orlop("run", "--rm", "--userns-remap", "nobody-here", "probe", "true")
    assert done.returncode == 125
    assert b"there is no user 'nobody-here'" in done.stderr


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (("--uidmap", "1:100000:10"), "no id 0"),
        (("--uidmap", "0:100000:10", "--uidmap", "5:200000:10"), "overlap"),
        (("--uidmap", "0:4294967290:100"), "beyond"),
        (("--uidmap", "0:100000:1000", "--user", "5000"), "user 5000 is not in the map"),
        (("--userns-remap", "root", "--uidmap", "0:1:1"), "exclude each other"),
    ],
)
def test_a_map_that_cannot_be_is_refused(daemon: Daemon, options: tuple[str, ...], why: str) -> None:
    done = daemon.orlop("run", "--rm", *options, "probe", "true")
    assert done.returncode == 125 or b"Usage" in done.stderr
    assert why in done.stderr.decode()


def test_a_closed_folder_above_is_named_with_what_to_do(daemon: Daemon) -> None:
    daemon.folder.chmod(0o700)
    done = daemon.orlop("run", "--rm", *MAP, "probe", "true")
    assert f"cannot get through {daemon.folder}" in done.stderr.decode()
    assert b"chmod o+x" in done.stderr


def test_ctr_maps_ids_as_it_does_with_containerd(daemon: Daemon, image: str) -> None:
    options = ("--uidmap", "0:100000:65536", "--gidmap", "0:100000:65536")
    name = "docker.io/library/probe:latest"
    done = daemon.ctr(
        "run", "--rm", *options, name, "mapped", "sh", "-c", "stat -c %u /etc; cat /proc/self/uid_map"
    )
    assert daemon.must(done).split() == ["0", "0", "100000", "65536"]


def test_what_a_mount_leaves_is_nothing(daemon: Daemon) -> None:
    inside(daemon, "true")
    left = subprocess.run(["findmnt", "-rno", "TARGET"], capture_output=True, text=True, check=True).stdout
    assert str(daemon.root / "containers") not in left
