"""Checkpoints as images: ctr takes them, keeps them and restores from them. CRIU itself is played."""

from __future__ import annotations

import io
import json
import secrets
import signal
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import any_pb2

from orlop_protos.containerd.runc.v1 import oci_pb2
from orlop_protos.containerd.services.snapshots.v1 import snapshots_pb2, snapshots_pb2_grpc
from orlop_protos.containerd.services.tasks.v1 import tasks_pb2, tasks_pb2_grpc
from orlop_protos.containerd.types import descriptor_pb2
from tests.support.cgroups import cgroup_file
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


@contextmanager
def tasks_of(daemon: Daemon) -> Iterator[Any]:
    """The task service, in the daemon's own namespace."""
    with daemon.channel() as channel:
        stub = tasks_pb2_grpc.TasksStub(channel)
        yield Namespaced(stub, daemon.namespace)


class Namespaced:
    def __init__(self, stub: Any, namespace: str) -> None:
        self._stub = stub
        self._how = {"metadata": [("containerd-namespace", namespace)], "timeout": 30}

    def __getattr__(self, name: str) -> Callable[[Any], Any]:
        return lambda request: getattr(self._stub, name)(request, **self._how)

    def later(self, name: str, request: Any) -> Any:
        """Call a method; its future."""
        return getattr(self._stub, name).future(request, **self._how)


@pytest.fixture
def waiting(fresh_daemon: Daemon, archive: str, name: str, tmp_path: Path) -> Iterator[Daemon]:
    """A daemon with a task that was made of a checkpoint and waits for its start."""
    daemon = fresh_daemon
    daemon.must(daemon.orlop("import", archive))
    program = recorder(tmp_path)
    daemon.must(daemon.ctr("run", "-d", "--runc-binary", program, IMAGE, name, "sleep", "900"))
    ref = f"example.com/{name}:1"
    daemon.must(daemon.ctr("containers", "checkpoint", "--task", name, ref))
    gone(daemon, name)
    daemon.must(daemon.ctr("containers", "create", IMAGE, name, "sleep", "900"))
    with daemon.channel() as channel:
        snapshots: Any = snapshots_pb2_grpc.SnapshotsStub(channel)
        asked = snapshots_pb2.MountsRequest(snapshotter="overlayfs", key=name)
        metadata = [("containerd-namespace", daemon.namespace)]
        rootfs = snapshots.Mounts(asked, metadata=metadata, timeout=30).mounts
    named = descriptor_pb2.Descriptor(digest=parts_of(daemon, ref)[CRIU], media_type=CRIU)
    request = tasks_pb2.CreateTaskRequest(container_id=name, checkpoint=named, rootfs=rootfs)
    options = oci_pb2.Options(binary_name=str(program))
    request.options.type_url = options.DESCRIPTOR.full_name
    request.options.value = options.SerializeToString()
    with tasks_of(daemon) as tasks:
        tasks.Create(request)
    yield daemon
    gone(daemon, name)


def test_a_task_made_of_a_checkpoint_can_be_started_by_a_daemon_that_came_later(
    waiting: Daemon, name: str, tmp_path: Path
) -> None:
    daemon = waiting
    (daemon.root / "checkpoints/other").mkdir()
    (daemon.root / "checkpoints/other/lost").mkdir()
    half = daemon.root / "checkpoints/.0123456789abcdef"
    half.mkdir()
    (half / "pages-1.img").write_bytes(b"half")
    daemon.kill9()
    daemon.start()
    assert [path.name for path in folders(daemon)] == [name], "the folder of a task that is none is swept"
    assert not half.exists(), "and so is what was being written"
    with tasks_of(daemon) as tasks:
        tasks.Start(tasks_pb2.StartRequest(container_id=name))
    assert (tmp_path / "restored/pages-1.img").read_text() == f"pages of {name}\n"
    assert folders(daemon) == []
    daemon.must(daemon.ctr("tasks", "kill", "-s", "9", name))
    eventually(lambda: daemon.must(daemon.ctr("tasks", "ls")), lambda said: "STOPPED" in said, 30)


def test_what_needs_a_container_waits_for_the_restore(waiting: Daemon, name: str) -> None:
    """There is none yet for the runtime to change, which says so in words of its own."""
    limits = any_pb2.Any(
        type_url="types.containerd.io/opencontainers/runtime-spec/1/LinuxResources",
        value=b'{"pids": {"limit": 50}}',
    )
    checkpoint = tasks_pb2.CheckpointTaskRequest(container_id=name)
    with tasks_of(waiting) as tasks:
        for method, request, said in (
            ("Update", tasks_pb2.UpdateTaskRequest(container_id=name, resources=limits), "not restored yet"),
            ("Pause", tasks_pb2.PauseTaskRequest(container_id=name), "created"),
            ("Checkpoint", checkpoint, "created"),
            ("Kill", tasks_pb2.KillRequest(container_id=name, signal=signal.SIGTERM), "not created"),
        ):
            with pytest.raises(grpc.RpcError, match=said) as caught:
                getattr(tasks, method)(request)
            code = caught.value.code()  # type: ignore[attr-defined]
            assert code is grpc.StatusCode.FAILED_PRECONDITION, method
        started = tasks.Start(tasks_pb2.StartRequest(container_id=name))
        tasks.Update(tasks_pb2.UpdateTaskRequest(container_id=name, resources=limits))
    assert cgroup_file(started.pid, "pids", "pids.max").read_text() == "50\n"


# --- Several at once


def test_two_checkpoints_of_one_task_do_not_mix(
    daemon: Daemon, running: str, name: str, tmp_path: Path
) -> None:
    (tmp_path / "hold").touch()
    request = tasks_pb2.CheckpointTaskRequest(container_id=name)
    with tasks_of(daemon) as tasks:
        both = [tasks.later("Checkpoint", request) for _ in range(2)]
        eventually(lambda: list(tmp_path.glob("begun-*")), lambda found: len(found) == 2, 20)
        written = set((daemon.root / "checkpoints").glob(".*"))
        (tmp_path / "hold").unlink()
        replies = [each.result() for each in both]
    assert len(written) == 2
    for reply in replies:
        kinds = {each.media_type: each.digest for each in reply.descriptors}
        tar = daemon.ctr("content", "get", kinds[CRIU]).stdout
        with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
            assert {member.name.strip("./") for member in archive} - {""} == {"pages-1.img", "latest"}
    assert list((daemon.root / "checkpoints").glob("*")) == []


def test_a_task_that_is_removed_while_it_is_checkpointed_leaves_nothing_of_it(
    daemon: Daemon, running: str, name: str, tmp_path: Path
) -> None:
    (tmp_path / "hold").touch()
    with tasks_of(daemon) as tasks:
        call = tasks.later("Checkpoint", tasks_pb2.CheckpointTaskRequest(container_id=name))
        eventually(lambda: list(tmp_path.glob("begun-*")), bool, 20)
        assert len(list((daemon.root / "checkpoints").glob(".*"))) == 1
        daemon.must(daemon.ctr("tasks", "rm", "-f", name))
        (tmp_path / "hold").unlink()
        assert call.exception() is not None
        assert call.code() is grpc.StatusCode.NOT_FOUND
    assert list((daemon.root / "checkpoints").glob("*")) == []
    assert name not in daemon.must(daemon.ctr("tasks", "ls"))


# --- A runtime that fails when the daemon starts


FAILING = """
from orlop_plugins.oci.runtime import OciRuntime

async def recover(self):
    raise RuntimeError("broken for a while")

OciRuntime.recover = recover
"""


def test_a_checkpoint_that_a_task_waits_to_start_from_outlives_a_start_at_which_its_runtime_fails(
    waiting: Daemon, name: str, tmp_path: Path
) -> None:
    daemon = waiting
    failing = daemon.folder / "plugins/failing.py"
    failing.write_text(FAILING)
    daemon.restart()
    assert "broken for a while" in daemon.log
    assert daemon.must(daemon.ctr("tasks", "ls", "-q")) == ""
    assert [path.name for path in folders(daemon)] == [name]
    failing.unlink()
    daemon.restart()
    with tasks_of(daemon) as tasks:
        tasks.Start(tasks_pb2.StartRequest(container_id=name))
    assert (tmp_path / "restored/pages-1.img").read_text() == f"pages of {name}\n"
    assert folders(daemon) == []
