"""Published attacks that must not work here, against real containers; each test names its number."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orlop_protos.containerd.runc.v1 import oci_pb2
from orlop_protos.containerd.services.tasks.v1 import tasks_pb2, tasks_pb2_grpc
from orlop_protos.containerd.types import descriptor_pb2
from tests.support.daemon import Daemon
from tests.support.images import File, busybox_layer, digest_of, make_image, save_archive, tar_of

NOBODY = 65534


@pytest.fixture
def box(daemon: Daemon, image: str) -> Iterator[str]:
    daemon.folder.chmod(0o711)
    daemon.must(daemon.orlop("run", "-d", "--name", "target", "--net", "host", "probe", "sleep", "1000"))
    yield "target"
    daemon.orlop("rm", "-f", "target")
    daemon.folder.chmod(0o700)


def shim(daemon: Daemon, name: str) -> dict[str, Any]:
    (found,) = json.loads(daemon.must(daemon.orlop("shim", "inspect", name)))
    return found


def sockets_of(pid: int) -> list[str]:
    """The names of a process's unix sockets, abstract ones with an @."""
    mine: set[str] = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            link = str(entry.readlink())
        except OSError:
            continue
        if link.startswith("socket:["):
            mine.add(link[8:-1])
    lines = (line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:])
    return [line[7] for line in lines if len(line) > 7 and line[6] in mine]


# --- Shim and host


def test_cve_2020_15257_sockets_are_files_that_only_root_can_use(daemon: Daemon, box: str) -> None:
    found = shim(daemon, box)
    names = [name for pid in (daemon.pid, found["pid"]) for name in sockets_of(pid)]
    assert found["address"] in names
    assert not [name for name in names if name.startswith("@")], (
        "a container on the host's network reaches it"
    )
    assert stat.S_IMODE(os.stat(found["address"]).st_mode) == 0o600  # noqa: PTH116
    inside = daemon.must(daemon.orlop("exec", box, "cat", "/proc/net/unix"))
    assert not [line for line in inside.splitlines() if "@" in line and ("orlop" in line or "shim" in line)]


def test_cve_2021_41103_2024_25621_2021_41091_nobody_else_reaches_what_is_set_id(
    daemon: Daemon, archive: str, tmp_path: Path
) -> None:
    daemon.folder.chmod(0o711)
    extra = tar_of([File("bin/rooted", b"#!/bin/sh\n", 0o4755)])
    save_archive(
        tmp_path / "set.tar", "docker.io/library/rooted:latest", image=make_image([busybox_layer(), extra])
    )
    daemon.must(daemon.orlop("import", tmp_path / "set.tar"))
    daemon.must(daemon.orlop("run", "-d", "--name", "rooted", "rooted", "sleep", "1000"))
    try:
        found = shim(daemon, "rooted")
        assert stat.S_IMODE(daemon.root.stat().st_mode) == 0o700
        assert stat.S_IMODE(daemon.state.stat().st_mode) == 0o711
        set_id = [path for path in daemon.folder.rglob("rooted") if path.is_file()]
        assert Path(found["bundle"]) / "rootfs/bin/rooted" in set_id
        assert len(set_id) >= 2, "in the snapshot and in the container"
        for path in set_id:
            done = subprocess.run(
                ["stat", path], capture_output=True, user=NOBODY, group=NOBODY, extra_groups=[]
            )
            assert b"Permission denied" in done.stderr, path
    finally:
        daemon.must(daemon.orlop("rm", "-f", "rooted"))
        daemon.must(daemon.orlop("rmi", "rooted"))
        daemon.folder.chmod(0o700)


# --- Image config


def test_cve_2024_1753_2024_11218_2025_9566_mounts_stay_inside_the_root(
    daemon: Daemon, image: str, tmp_path: Path
) -> None:
    """Targets that are symlinks of the image's are taken inside its root; nothing of the host is touched."""
    outside, source = tmp_path / "outside", tmp_path / "source"
    outside.mkdir()
    source.mkdir()
    (source / "mine").write_text("from the request\n")
    (outside / "secret").write_text("of the host\n")
    deep = "../" * 20
    places = {"data": str(outside), "up": f"{deep}{str(outside).lstrip('/')}", "mem": str(outside)}
    links = tar_of(File(name, target) for name, target in places.items())
    save_archive(
        tmp_path / "links.tar", "docker.io/library/links:latest", image=make_image([busybox_layer(), links])
    )
    daemon.must(daemon.orlop("import", tmp_path / "links.tar"))
    before = Path("/proc/self/mountinfo").read_text().count(str(outside))
    try:
        for target in ("/data", "/up"):
            said = daemon.must(
                daemon.orlop("run", "--rm", "-v", f"{source}:{target}", "links", "sh", "-c",
                             f"cat {target}/mine; echo w > {target}/made")
            )  # fmt: skip
            assert said == "from the request\n"
        said = daemon.must(
            daemon.orlop(
                "run", "--rm", "--tmpfs", "/mem", "links", "sh", "-c", "ls -A /mem; echo w > /mem/made"
            )
        )
        assert said == ""
        assert sorted(each.name for each in outside.iterdir()) == ["secret"]
        assert (source / "made").read_text() == "w\n"
        assert Path("/proc/self/mountinfo").read_text().count(str(outside)) == before
    finally:
        daemon.must(daemon.orlop("rmi", "links"))


# --- Checkpoint

CRIU = "application/vnd.containerd.container.criu.checkpoint.criu.tar"
RECORDER = """#!{python}
import json, pathlib, shutil, sys
args = sys.argv[1:]
if "--version" in args:
    print("runc version 1.99.0\\nspec: 1.0.2")
    sys.exit()
with open({log!r}, "a") as file:
    print(json.dumps(args), file=file)
if "restore" in args:
    bundle = pathlib.Path(args[args.index("--bundle") + 1])
    shutil.copy(bundle / "config.json", {spec!r})
    sys.exit("recorded")
"""


@pytest.mark.parametrize("as_blob", [False, True], ids=["folder", "blob"])
def test_cve_2026_53492_2024_8676_2026_50195_a_checkpoint_brings_nothing_but_memory(
    daemon: Daemon, image: str, tmp_path: Path, as_blob: bool
) -> None:
    """Devices, mounts and names in a checkpoint are not read: the container's own spec is restored."""
    log, seen, archive = tmp_path / "log", tmp_path / "seen.json", tmp_path / "checkpoint"
    archive.mkdir()
    evil = {"ociVersion": "1.0.2", "linux": {"devices": [{"path": "/dev/evil", "type": "c"}]},
            "mounts": [{"destination": "/host", "source": "/", "type": "bind"}],
            "annotations": {"cdi.k8s.io/evil": "vendor.com/evil=all"}}  # fmt: skip
    for name in ("config.json", "spec.dump", "config.dump"):
        (archive / name).write_text(json.dumps(evil))
    program = tmp_path / "recorder"
    program.write_text(RECORDER.format(python=sys.executable, log=str(log), spec=str(seen)))
    program.chmod(0o755)
    daemon.must(daemon.orlop("create", "--name", "thawed", "probe", "sleep", "1000"))
    (made,) = json.loads(daemon.must(daemon.orlop("inspect", "thawed")))
    images = daemon.must(daemon.ctr("images", "ls", "-q"))
    path = "" if as_blob else str(archive)
    options = oci_pb2.Options(binary_name=str(program), criu_image_path=path)
    request = tasks_pb2.CreateTaskRequest(container_id=made["id"])
    request.options.Pack(options)
    request.options.type_url = options.DESCRIPTOR.full_name
    metadata = [("containerd-namespace", daemon.namespace)]
    try:
        if as_blob:
            data = tar_of([File(each.name, each.read_bytes()) for each in archive.iterdir()])
            named = descriptor_pb2.Descriptor(digest=digest_of(data), size=len(data), media_type=CRIU)
            daemon.must(daemon.ctr("content", "ingest", "evil", stdin=data))
            request.checkpoint.CopyFrom(named)
        with daemon.channel() as channel:
            stub: Any = tasks_pb2_grpc.TasksStub(channel)
            stub.Create(request, metadata=metadata, timeout=30)
            with pytest.raises(Exception, match="restore failed"):
                stub.Start(tasks_pb2.StartRequest(container_id=made["id"]), metadata=metadata, timeout=30)
            stub.Delete(tasks_pb2.DeleteTaskRequest(container_id=made["id"]), metadata=metadata, timeout=30)
        calls = [json.loads(line) for line in log.read_text().splitlines()]
        (restore,) = [call for call in calls if "restore" in call]
        told = restore[restore.index("--image-path") + 1]
        assert (told == str(archive)) is not as_blob
        assert json.loads(seen.read_text()) == made["oci_spec"]
        assert "evil" not in seen.read_text()
        assert list((daemon.root / "checkpoints").glob("*/*")) == [], "a deleted task leaves none"
        assert daemon.must(daemon.ctr("images", "ls", "-q")) == images, "a restore names nothing"
    finally:
        daemon.must(daemon.orlop("rm", "-f", "thawed"))


# --- runc


def test_cve_2019_5736_2024_21626_no_descriptor_leaks_into_a_container(
    fresh_daemon: Daemon, archive: str
) -> None:
    """Whatever a daemon was started with: its containers have the three descriptors that they need."""
    daemon = fresh_daemon
    daemon.stop()
    leaked = os.open("/", os.O_RDONLY)
    os.set_inheritable(leaked, True)
    original = subprocess.Popen

    def leaky(*args: Any, **options: Any) -> Any:
        return original(*args, **{**options, "pass_fds": (leaked,)})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subprocess, "Popen", leaky)
        daemon.start()
    os.close(leaked)
    assert Path(f"/proc/{daemon.pid}/fd/{leaked}").exists(), "it was started with one"
    daemon.must(daemon.orlop("import", archive))
    daemon.must(daemon.orlop("run", "-d", "--name", "box", "probe", "sleep", "1000"))
    (found,) = json.loads(daemon.must(daemon.orlop("inspect", "box")))
    assert sorted(os.listdir(f"/proc/{found['pid']}/fd")) == ["0", "1", "2"]  # noqa: PTH208
    said = daemon.must(daemon.orlop("exec", "box", "sh", "-c", "ls /proc/self/fd")).split()
    assert said == ["0", "1", "2", "3"], "the last is the folder that ls reads"
    daemon.must(daemon.orlop("rm", "-f", "box"))


def test_cve_2025_31133_52565_52881_a_vulnerable_runc_is_told(daemon: Daemon) -> None:
    from orlop_plugins.oci.advisories import of_installed

    info = json.loads(daemon.must(daemon.orlop("info", "--output", "json")))
    assert [each for each in info["warnings"] if "CVE-" in each] == of_installed()
