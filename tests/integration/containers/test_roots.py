"""Containers on other roots than an image: a directory, nothing, a bundle."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from orlop import errors
from orlop.values import ContainerSpec
from tests.support.engine import reason, running, said

# ruff: noqa: ASYNC240 - what the tests look at on the disk is small
# ruff: noqa: ASYNC240 - what the tests look at on the disk is small
pytestmark = pytest.mark.timeout(180)


async def test_a_directory_is_the_root_itself(client: Any, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    shutil.copy("/bin/busybox", tmp_path / "bin/sh")
    spec = ContainerSpec(rootfs=str(tmp_path), args=["/bin/sh", "-c", "echo stays > /made"], auto_remove=True)
    assert await said(client.containers.run(spec)) == ("", 0)
    assert (tmp_path / "made").read_text() == "stays\n"
    assert not (tmp_path / "etc").exists(), "files of the daemon's are bound only over what is there"


async def tar(**files: str) -> AsyncIterator[bytes]:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        for name, source in files.items():
            archive.add(source, name.replace("_", "/"))
    yield data.getvalue()


async def test_nothing_and_a_program_copied_in_is_enough(client: Any) -> None:
    made = await client.containers.create(ContainerSpec(scratch=True, args=["/bin/busybox", "echo", "hello"]))
    size = Path("/bin/busybox").stat().st_size
    assert await client.containers.copy_in(made.id, tar(bin_busybox="/bin/busybox")) == size
    assert await said(client.containers.start(made.id, attach=True)) == ("hello\n", 0)


async def test_nothing_is_copied_into_what_runs_or_is_no_snapshot(client: Any, tmp_path: Path) -> None:
    async with running(client) as container:
        with pytest.raises(errors.FailedPrecondition) as caught:
            await client.containers.copy_in(container.id, tar(x="/etc/hostname"))
        assert reason(caught) == "CONTAINER_RUNNING"
    made = await client.containers.create(ContainerSpec(rootfs=str(tmp_path), args=["/x"]))
    with pytest.raises(errors.FailedPrecondition) as caught:
        await client.containers.copy_in(made.id, tar(x="/etc/hostname"))
    assert reason(caught) == "ROOT_IS_A_DIRECTORY"
    assert list(tmp_path.iterdir()) == []


async def test_a_bundle_runs_as_it_is(client: Any, tmp_path: Path) -> None:
    made = await client.containers.create(ContainerSpec(image="probe", args=["true"]))
    spec = json.loads((await client.containers.get(made.id)).oci_spec)
    (tmp_path / "rootfs/bin").mkdir(parents=True)
    shutil.copy("/bin/busybox", tmp_path / "rootfs/bin/busybox")
    spec["process"]["args"] = ["/bin/busybox", "echo", "from the bundle"]
    spec["linux"]["cgroupsPath"] += "-bundle"
    spec["mounts"] = [each for each in spec["mounts"] if each["type"] != "bind"]
    (tmp_path / "config.json").write_text(json.dumps(spec))
    wanted = ContainerSpec(bundle=str(tmp_path), auto_remove=True)
    assert await said(client.containers.run(wanted)) == ("from the bundle\n", 0)
