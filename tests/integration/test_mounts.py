"""The Mounts service: stacks that the daemon performs and keeps."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from orlop_plugins.erofs.image import probe
from orlop_protos.containerd.services.leases.v1 import leases_pb2, leases_pb2_grpc
from orlop_protos.containerd.services.mounts.v1 import mounts_pb2 as api
from orlop_protos.containerd.services.mounts.v1 import mounts_pb2_grpc
from orlop_protos.containerd.types.mount_pb2 import ActivationInfo, Mount
from orlopd.plugin import values
from orlopd.plugin.errors import FailedPrecondition
from orlopd.plugin.mount import mount as perform
from orlopd.plugin.mount import unmount
from tests.support.daemon import Daemon, eventually, mounts_under


class Client:
    """Calls the service in the daemon's namespace."""

    def __init__(self, daemon: Daemon) -> None:
        self._channel = daemon.channel()
        self._stub: Any = mounts_pb2_grpc.MountsStub(self._channel)
        self._leases: Any = leases_pb2_grpc.LeasesStub(self._channel)
        self._header = (("containerd-namespace", daemon.namespace),)

    def activate(self, name: str, *mounts: Mount, lease: str = "", temporary: bool = False) -> ActivationInfo:
        header = (*self._header, *((("containerd-lease", lease),) if lease else ()))
        request = api.ActivateRequest(
            name=name, mounts=mounts, temporary=temporary, labels={"colour": "blue"}
        )
        return self._stub.Activate(request, metadata=header, timeout=20).info

    def deactivate(self, name: str) -> None:
        self._stub.Deactivate(api.DeactivateRequest(name=name), metadata=self._header, timeout=20)

    def info(self, name: str) -> ActivationInfo:
        return self._stub.Info(api.InfoRequest(name=name), metadata=self._header, timeout=20).info

    def relabel(self, name: str, **labels: str) -> ActivationInfo:
        request = api.UpdateRequest(info=ActivationInfo(name=name, labels=labels))
        request.update_mask.paths.extend(f"labels.{key}" for key in labels)
        return self._stub.Update(request, metadata=self._header, timeout=20).info

    def names(self, *filters: str) -> list[str]:
        request = api.ListRequest(filters=filters)
        return [each.info.name for each in self._stub.List(request, metadata=self._header, timeout=20)]

    def lease(self) -> str:
        return self._leases.Create(leases_pb2.CreateRequest(), metadata=self._header, timeout=20).lease.id

    def drop_lease(self, id: str) -> None:
        self._leases.Delete(leases_pb2.DeleteRequest(id=id), metadata=self._header, timeout=20)


@pytest.fixture
def client(daemon: Daemon) -> Iterator[Client]:
    client = Client(daemon)
    yield client
    for name in client.names():
        client.deactivate(name)


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two EROFS images."""
    paths: list[str] = []
    for number in (0, 1):
        folder = tmp_path_factory.mktemp("layer")
        (folder / "name").write_text(f"layer {number}")
        (folder / f"only-{number}").touch()
        paths.append(str(tmp_path_factory.mktemp("image") / "layer.erofs"))
        subprocess.run(["mkfs.erofs", "--quiet", paths[-1], folder], check=True, timeout=30)
    return paths


@pytest.fixture
def image_in_memory(images: list[str], tmp_path: Path) -> Iterator[str]:
    """An image whose file no kernel mounts: EROFS reads pages of a file, which tmpfs does not let it do."""
    folder = tmp_path / "memory"
    folder.mkdir()
    perform(values.Mount("tmpfs", "tmpfs", ("size=16m",)), folder)
    try:
        yield str(shutil.copy(images[0], folder))
    finally:
        unmount(folder, detach=True)


def source_of(point: str) -> str:
    """What is mounted at a place."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    (source,) = [line.rpartition(" - ")[2].split()[1] for line in lines if line.split()[4] == point]
    return source


def loops_of(path: str) -> list[str]:
    """The loop devices that have a file."""
    found: list[str] = []
    for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
        with contextlib.suppress(OSError):  # gone meanwhile
            if backing.read_text().strip() == path:
                found.append(f"/dev/{backing.parent.parent.name}")
    return found


def erofs(path: str) -> Mount:
    return Mount(type="erofs", source=path, options=["ro"])


def refused(call: Any, *arguments: Any, **more: Any) -> grpc.StatusCode:
    with pytest.raises(grpc.RpcError) as caught:
        call(*arguments, **more)
    error: Any = caught.value
    return error.code()


def test_a_stack_is_performed_and_its_top_left_to_the_client(client: Client, images: list[str]) -> None:
    overlay = Mount(type="format/overlay", source="overlay", options=["lowerdir={{ overlay 1 0 }}"])
    info = client.activate("stack", erofs(images[0]), erofs(images[1]), overlay)
    points = [each.mount_point for each in info.active]
    assert [Path(point, "name").read_text() for point in points] == ["layer 0", "layer 1"]
    (left,) = info.system
    assert (left.type, list(left.options)) == ("overlay", [f"lowerdir={points[1]}:{points[0]}"])
    assert dict(info.labels) == {"colour": "blue"}
    assert client.info("stack") == info
    client.deactivate("stack")
    assert not Path(points[0]).exists()
    assert refused(client.info, "stack") is grpc.StatusCode.NOT_FOUND
    assert refused(client.deactivate, "stack") is grpc.StatusCode.NOT_FOUND


def test_a_temporary_one_is_performed_whole(client: Client, images: list[str]) -> None:
    overlay = Mount(type="format/overlay", source="overlay", options=["lowerdir={{ overlay 1 0 }}"])
    info = client.activate("whole", erofs(images[0]), erofs(images[1]), overlay, temporary=True)
    (left,) = info.system
    assert (left.type, list(left.options)) == ("bind", ["rbind"])
    assert sorted(path.name for path in Path(left.source).iterdir()) == ["name", "only-0", "only-1"]


def test_what_any_client_can_mount_is_not_implemented(client: Client, tmp_path: Path) -> None:
    bind = Mount(type="bind", source=str(tmp_path), options=["rbind"])
    assert refused(client.activate, "plain", bind) is grpc.StatusCode.UNIMPLEMENTED
    assert client.names() == []


def test_what_does_not_work_is_undone(client: Client, daemon: Daemon, images: list[str]) -> None:
    before = mounts_under(daemon.folder)
    missing = erofs("/nowhere/layer.erofs")
    assert refused(client.activate, "half", erofs(images[0]), missing) is grpc.StatusCode.NOT_FOUND
    words = Mount(type="format/overlay", source="overlay", options=["lowerdir={{ mount 7 }}"])
    assert refused(client.activate, "half", erofs(images[0]), words) is grpc.StatusCode.INVALID_ARGUMENT
    assert client.names() == []
    assert mounts_under(daemon.folder) == before
    assert list((daemon.state / "mounts").iterdir()) == []


def test_names_are_taken_once_and_listed(client: Client, images: list[str]) -> None:
    client.activate("one", erofs(images[0]))
    client.activate("two", erofs(images[0]))
    assert refused(client.activate, "one", erofs(images[1])) is grpc.StatusCode.ALREADY_EXISTS
    assert dict(client.relabel("two", size="big").labels) == {"colour": "blue", "size": "big"}
    assert client.names() == ["one", "two"]
    assert client.names("labels.size==big") == ["two"]
    assert client.names("name==one") == ["one"]


def test_a_file_becomes_a_device(client: Client, images: list[str]) -> None:
    loop = Mount(type="loop", source=images[0], options=["ro"])
    info = client.activate("device", loop, Mount(type="format/erofs", source="{{ mount 0 }}", options=["ro"]))
    device = info.active[0].data["device"]
    assert Path(info.active[0].mount_point).readlink() == Path(device)
    assert Path(info.active[1].mount_point, "name").read_text() == "layer 0"
    backing = Path("/sys/block", Path(device).name, "loop/backing_file")
    assert backing.read_text().strip() == images[0]
    client.deactivate("device")
    assert eventually(backing.exists, lambda there: not there, 30) is False


def test_an_image_takes_no_device_where_the_kernel_mounts_files(
    client: Client, images: list[str], tmp_path: Path
) -> None:
    info = client.activate("file", erofs(images[0]))
    by_device = probe(tmp_path)  # before Linux 6.12
    assert (source_of(info.active[0].mount_point) == images[0]) is not by_device
    assert bool(loops_of(images[0])) is by_device


@pytest.mark.parametrize("options", [["ro"], [], ["ro", "loop"]], ids=",".join)
def test_an_image_gets_a_loop_device_where_the_kernel_refuses_its_file(
    client: Client, image_in_memory: str, options: list[str]
) -> None:
    point = Path(image_in_memory).with_name("point")
    point.mkdir()
    with pytest.raises(FailedPrecondition, match="Block device required"):
        perform(values.Mount("erofs", image_in_memory, ("ro",)), point)
    info = client.activate("loop", Mount(type="erofs", source=image_in_memory, options=options))
    (active,) = info.active
    assert Path(active.mount_point, "name").read_text() == "layer 0"
    assert loops_of(image_in_memory) == [source_of(active.mount_point)]
    assert os.statvfs(active.mount_point).f_flag & os.ST_RDONLY
    client.deactivate("loop")
    assert not Path(active.mount_point).exists()
    assert eventually(lambda: loops_of(image_in_memory), lambda left: not left, 30) == []


def test_what_is_no_image_keeps_no_loop_device(client: Client, daemon: Daemon, image_in_memory: str) -> None:
    Path(image_in_memory).write_bytes(bytes(1 << 20))
    assert refused(client.activate, "none", erofs(image_in_memory)) is grpc.StatusCode.FAILED_PRECONDITION
    assert eventually(lambda: loops_of(image_in_memory), lambda left: not left, 30) == []
    assert list((daemon.state / "mounts").iterdir()) == []


def test_one_that_is_in_use_stays(client: Client, images: list[str]) -> None:
    info = client.activate("busy", erofs(images[0]))
    with Path(info.active[0].mount_point, "name").open():
        assert refused(client.deactivate, "busy") is grpc.StatusCode.FAILED_PRECONDITION
        assert client.names() == ["busy"]
    client.deactivate("busy")


def test_a_leased_one_goes_with_its_lease(client: Client, images: list[str]) -> None:
    lease = client.lease()
    info = client.activate("leased", erofs(images[0]), lease=lease)
    assert refused(client.activate, "other", erofs(images[0]), lease="gone") is grpc.StatusCode.NOT_FOUND
    client.drop_lease(lease)
    assert eventually(client.names, lambda names: not names, 30) == []
    assert not Path(info.active[0].mount_point).exists()


@pytest.mark.timeout(180)
def test_a_crash_leaves_what_is_whole_and_nothing_else(images: list[str]) -> None:
    with Daemon() as daemon:
        kept = Client(daemon).activate("kept", erofs(images[0]))
        torn = Client(daemon).activate("torn", erofs(images[0]), erofs(images[1]))
        daemon.kill9()
        # As if the daemon had died before it was done with this one.
        record = Path(torn.active[0].mount_point).parent / "activation.json"
        record.write_text(record.read_text().replace('"done": true', '"done": false'))
        daemon.start()
        client = Client(daemon)
        assert client.names() == ["kept"]
        assert client.info("kept") == kept
        assert not record.parent.exists()
        client.deactivate("kept")
        assert [point for point in mounts_under(daemon.folder) if "/mounts/" in point] == []
