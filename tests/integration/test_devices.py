"""Devices in real containers: nodes, and CDI devices out of the configuration's folders."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon import Daemon

SPEC = {
    "cdiVersion": "0.6.0",
    "kind": "vendor.com/thing",
    "devices": [
        {
            "name": "zero",
            "containerEdits": {
                "env": ["THING=here"],
                "deviceNodes": [{"path": "/dev/thing", "hostPath": "/dev/full", "permissions": "rw"}],
                "mounts": [
                    {"hostPath": "/etc/hostname", "containerPath": "/thing", "options": ["ro", "bind"]}
                ],
            },
        }
    ],
}


@pytest.fixture(scope="module")
def cdi(tmp_path_factory: pytest.TempPathFactory, archive: str) -> Iterator[tuple[Daemon, Path]]:
    folder = tmp_path_factory.mktemp("cdi")
    with Daemon(f'cdi_spec_dirs = ["{folder}"]') as daemon:
        daemon.must(daemon.orlop("import", archive))
        yield daemon, folder


def test_a_cdi_device_is_usable_and_told(cdi: tuple[Daemon, Path]) -> None:
    daemon, folder = cdi
    (folder / "thing.json").write_text(json.dumps(SPEC))
    script = "echo $THING; cat /thing; head -c 2 /dev/thing | od -An -tx1; echo x > /dev/thing || echo full"
    said = daemon.must(
        daemon.orlop("run", "--rm", "--device", "vendor.com/thing=zero", "probe", "sh", "-c", script)
    )
    assert said.split() == ["here", *Path("/etc/hostname").read_text().split(), "00", "00", "full"]
    done = daemon.orlop("run", "--rm", "--device", "vendor.com/thing=one", "probe", "true")
    assert b"'vendor.com/thing=one' is in no specification" in done.stderr
    assert b"there are: vendor.com/thing=zero" in done.stderr


def test_cve_2026_53492_and_2024_8676_an_archive_names_no_device(cdi: tuple[Daemon, Path]) -> None:
    """Labels, annotations and environment of an image ask for nothing: devices come from the request."""
    import asyncio

    from orlop.values import Build, ContainerSpec, ImageConfig
    from tests.support.images import busybox_layer

    daemon, folder = cdi
    (folder / "thing.json").write_text(json.dumps(SPEC))
    key = "cdi.k8s.io/thing"

    async def run() -> str:
        async def root():  # type: ignore[no-untyped-def]
            yield busybox_layer()

        async with daemon.connect() as client:
            labels = {key: "vendor.com/thing=zero", "devices": "/dev/full"}
            config = ImageConfig(labels=labels, env=(f"{key}=vendor.com/thing=zero",))
            await client.images.build(Build("greedy", config), root())
            spec = ContainerSpec(
                image="greedy", args=["sh", "-c", "ls /dev/thing; echo $THING"], auto_remove=True
            )
            async with client.containers.run(spec) as session:
                return b"".join([each.data async for each in session]).decode()

    said = asyncio.run(run())
    assert "No such file" in said
    assert "here" not in said


def test_a_node_is_open_for_what_was_asked_alone(daemon: Daemon, image: str) -> None:
    script = "head -c 1 /dev/x | od -An -tx1; echo a > /dev/x || echo refused"
    said = daemon.must(
        daemon.orlop(
            "run", "--rm", "--device", "/dev/full:/dev/x:r", "probe", "sh", "-c", script + " 2>/dev/null"
        )
    )
    assert said.split()[0] == "00"
    assert "refused" in said
    closed = daemon.orlop("run", "--rm", "--cap-add", "MKNOD", "probe", "sh", "-c",
                          "mknod /fuse c 10 229 && cat /fuse")  # fmt: skip
    assert closed.returncode
    assert b"Operation not permitted" in closed.stderr


@pytest.mark.parametrize(
    ("device", "said"),
    [
        ("/dev/no-such", "is not there"),
        ("/etc/passwd", "is no device"),
        ("/dev/null:/dev/x:q", "is not PATH"),
        ("name", "is no device"),
        ("vendor.com/gpu=a b", "no qualified name"),
    ],
)
def test_a_device_that_cannot_be_is_refused_in_one_sentence(
    daemon: Daemon, image: str, device: str, said: str
) -> None:
    done = daemon.orlop("run", "--rm", "--device", device, "probe", "true")
    assert done.returncode
    assert said in done.stderr.decode()
