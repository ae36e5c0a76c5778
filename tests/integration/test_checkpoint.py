"""Checkpoints as images: ctr takes them, keeps them and restores from them. CRIU itself is played."""

from __future__ import annotations

import io
import json
import secrets
import tarfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import pytest

from orlop_protos.containerd.runc.v1 import oci_pb2
from orlop_protos.containerd.services.snapshots.v1 import snapshots_pb2, snapshots_pb2_grpc
from orlop_protos.containerd.services.tasks.v1 import tasks_pb2, tasks_pb2_grpc
from orlop_protos.containerd.types import descriptor_pb2
from tests.support.criu import recorder
from tests.support.daemon import Daemon, eventually
from tests.support.images import digest_of

IMAGE = "docker.io/library/probe:latest"
CRIU = "application/vnd.containerd.container.criu.checkpoint.criu.tar"


@pytest.fixture
def name() -> str:
    return f"frozen-{secrets.token_hex(4)}"


@pytest.fixture
def running(daemon: Daemon, image: str, name: str, tmp_path: Path) -> Iterator[str]:
    """A container that sleeps under a runtime that plays CRIU; it and all that was made of it goes."""
    before = set(daemon.must(daemon.ctr("images", "ls", "-q")).split())
    program = recorder(tmp_path)
    daemon.must(
        daemon.ctr("run", "-d", "--runc-binary", program, "--env", "A=b", IMAGE, name, "sleep", "900")
    )
    yield name
    for container in daemon.must(daemon.ctr("containers", "ls", "-q")).split():
        if name in container:
            gone(daemon, container)
    for made in set(daemon.must(daemon.ctr("images", "ls", "-q")).split()) - before:
        daemon.must(daemon.ctr("images", "rm", "--sync", made))


def gone(daemon: Daemon, container: str) -> None:
    daemon.ctr("tasks", "rm", "-f", container)
    daemon.must(daemon.ctr("containers", "rm", container))


def spec_of(daemon: Daemon, container: str) -> Any:
    return json.loads(daemon.must(daemon.ctr("containers", "info", container)))["Spec"]


def parts_of(daemon: Daemon, image: str) -> dict[str, str]:
    """The digests in a checkpoint's index, by media type."""
    listing = daemon.must(daemon.ctr("images", "ls", f"name=={image}")).splitlines()[1].split()
    (digest,) = [word for word in listing if word.startswith("sha256:")]
    index = json.loads(daemon.must(daemon.ctr("content", "get", digest)))
    return {each["mediaType"]: each["digest"] for each in index["manifests"]}


def folders(daemon: Daemon) -> list[Path]:
    return list((daemon.root / "checkpoints").glob("*/*"))


def test_ctr_keeps_a_checkpoint_as_an_image_and_restores_it(
    daemon: Daemon, running: str, name: str, tmp_path: Path
) -> None:
    ref, again = f"example.com/{name}:1", f"{name}-again"
    daemon.must(daemon.ctr("tasks", "exec", "--exec-id", "x", name, "sh", "-c", "echo kept >/note"))
    daemon.must(daemon.ctr("containers", "checkpoint", "--task", "--rw", "--image", name, ref))
    told = (tmp_path / "checkpoint").read_text().splitlines()
    assert told[-1] == name
    assert "--leave-running" in told
    assert f"{name} " in daemon.must(daemon.ctr("tasks", "ls")), "it runs on"
    assert folders(daemon) == []

    tar = daemon.ctr("content", "get", parts_of(daemon, ref)[CRIU]).stdout
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        assert {member.name.strip("./") for member in archive} - {""} == {"pages-1.img", "latest"}

    spec = spec_of(daemon, name)
    gone(daemon, name)
    daemon.must(daemon.ctr("containers", "restore", "--live", "--rw", again, ref))
    told = (tmp_path / "restore").read_text().splitlines()
    assert told[told.index("--image-path") + 1].startswith(str(daemon.root))
    assert (tmp_path / "restored/pages-1.img").read_text() == f"pages of {name}\n"
    assert str((tmp_path / "restored/latest").readlink()) == "pages-1.img"
    assert "A=b" in spec_of(daemon, again)["process"]["env"] == spec["process"]["env"]
    assert daemon.must(daemon.ctr("tasks", "exec", "--exec-id", "x", again, "cat", "/note")) == "kept\n"
    assert folders(daemon) == [], "what was restored from is gone once the task runs"


def test_a_task_is_checkpointed_into_an_image_by_ctr(daemon: Daemon, running: str, tmp_path: Path) -> None:
    (ref,) = daemon.must(daemon.ctr("tasks", "checkpoint", "--exit", running)).split()
    assert "--leave-running" not in (tmp_path / "checkpoint").read_text().split()
    assert CRIU in parts_of(daemon, ref)


def test_what_the_real_runtime_lacks_is_told_and_nothing_stays(daemon: Daemon, image: str, name: str) -> None:
    daemon.must(daemon.ctr("run", "-d", IMAGE, name, "sleep", "900"))
    try:
        done = daemon.ctr("containers", "checkpoint", "--task", name, f"example.com/{name}:1")
        assert done.returncode != 0
        assert "OCI runtime checkpoint failed" in done.stderr.decode()
        assert "criu" in done.stderr.decode().lower()
        assert list((daemon.root / "checkpoints").glob("*")) == []
        assert "RUNNING" in daemon.must(daemon.ctr("tasks", "ls"))
    finally:
        gone(daemon, name)


# --- Create with a checkpoint, by the API


Create = Callable[..., Any]


@pytest.fixture
def create(daemon: Daemon, image: str, name: str) -> Iterator[Create]:
    """Makes the task of a container that has none yet, from a checkpoint of these bytes."""
    daemon.must(daemon.ctr("containers", "create", IMAGE, name, "true"))
    made: list[str] = []
    with daemon.channel() as channel:
        stub: Any = tasks_pb2_grpc.TasksStub(channel)

        def create(data: bytes, *, kind: str = CRIU, size: int = 0, keep: bool = True) -> Any:
            digest = digest_of(data)
            if keep:
                daemon.must(daemon.ctr("content", "ingest", "--expected-digest", digest, digest, stdin=data))
                made.append(digest)
            named = descriptor_pb2.Descriptor(digest=digest, size=size or len(data), media_type=kind)
            request = tasks_pb2.CreateTaskRequest(container_id=name, checkpoint=named)
            return stub.Create(request, metadata=[("containerd-namespace", daemon.namespace)], timeout=30)

        yield create
    for digest in made:
        daemon.ctr("content", "rm", digest)
    gone(daemon, name)


def tar_with(name: str, *, link: str = "") -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        if link:
            way = tarfile.TarInfo("way")
            way.type, way.linkname = tarfile.SYMTYPE, link
            archive.addfile(way)
        member = tarfile.TarInfo(name)
        member.size = 4
        archive.addfile(member, io.BytesIO(b"evil"))
    return file.getvalue()


def refused(create: Create, data: bytes, **how: Any) -> grpc.StatusCode:
    with pytest.raises(grpc.RpcError) as caught:
        create(data, **how)
    return caught.value.code()  # type: ignore[attr-defined]


def test_a_checkpoint_that_is_none_makes_no_task(daemon: Daemon, create: Create) -> None:
    good = tar_with("pages-1.img")
    assert refused(create, good, keep=False) is grpc.StatusCode.NOT_FOUND
    assert refused(create, good, kind="application/x-tar") is grpc.StatusCode.INVALID_ARGUMENT
    assert refused(create, good, size=7) is grpc.StatusCode.FAILED_PRECONDITION
    assert refused(create, b"no tar at all" * 100) is grpc.StatusCode.INVALID_ARGUMENT
    assert folders(daemon) == []


@pytest.mark.parametrize("link", ["", "/", "../../.."])
def test_a_hostile_checkpoint_writes_nothing_outside_its_folder(
    daemon: Daemon, create: Create, name: str, link: str
) -> None:
    data = tar_with(f"way/{name}" if link else f"../{name}", link=link)
    with suppress(grpc.RpcError):
        create(data)
    outside = [Path("/") / name, daemon.folder / name, daemon.root / name, daemon.root / "checkpoints" / name]
    assert not [path for path in outside if path.exists()]
    within = [path for path in (daemon.root / "checkpoints").rglob(name) if path.is_file()]
    assert all(path.is_relative_to(daemon.root / "checkpoints" / daemon.namespace / name) for path in within)


def test_a_task_made_of_a_checkpoint_can_be_started_by_a_daemon_that_came_later(
    fresh_daemon: Daemon, archive: str, name: str, tmp_path: Path
) -> None:
    daemon = fresh_daemon
    daemon.must(daemon.orlop("import", archive))
    program = recorder(tmp_path)
    daemon.must(daemon.ctr("run", "-d", "--runc-binary", program, IMAGE, name, "sleep", "900"))
    ref = f"example.com/{name}:1"
    daemon.must(daemon.ctr("containers", "checkpoint", "--task", name, ref))
    gone(daemon, name)
    daemon.must(daemon.ctr("containers", "create", IMAGE, name, "sleep", "900"))
    metadata = [("containerd-namespace", daemon.namespace)]
    digest = parts_of(daemon, ref)[CRIU]
    named = descriptor_pb2.Descriptor(digest=digest, media_type=CRIU)
    with daemon.channel() as channel:
        stub: Any = tasks_pb2_grpc.TasksStub(channel)
        options = oci_pb2.Options(binary_name=str(program))
        snapshots: Any = snapshots_pb2_grpc.SnapshotsStub(channel)
        asked = snapshots_pb2.MountsRequest(snapshotter="overlayfs", key=name)
        rootfs = snapshots.Mounts(asked, metadata=metadata, timeout=30).mounts
        request = tasks_pb2.CreateTaskRequest(container_id=name, checkpoint=named, rootfs=rootfs)
        request.options.type_url = options.DESCRIPTOR.full_name
        request.options.value = options.SerializeToString()
        stub.Create(request, metadata=metadata, timeout=30)
    (daemon.root / "checkpoints/other").mkdir()
    (daemon.root / "checkpoints/other/lost").mkdir()
    half = daemon.root / "checkpoints/.0123456789abcdef"
    half.mkdir()
    (half / "pages-1.img").write_bytes(b"half")
    daemon.kill9()
    daemon.start()
    assert [path.name for path in folders(daemon)] == [name], "the folder of a task that is none is swept"
    assert not half.exists(), "and so is what was being written"
    with daemon.channel() as channel:
        stub = tasks_pb2_grpc.TasksStub(channel)
        stub.Start(tasks_pb2.StartRequest(container_id=name), metadata=metadata, timeout=30)
    assert (tmp_path / "restored/pages-1.img").read_text() == f"pages of {name}\n"
    assert folders(daemon) == []
    daemon.must(daemon.ctr("tasks", "kill", "-s", "9", name))
    eventually(lambda: daemon.must(daemon.ctr("tasks", "ls")), lambda said: "STOPPED" in said, 10)
    gone(daemon, name)
