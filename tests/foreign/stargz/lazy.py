"""Images on a foreign lazy snapshotter. Run by ``check``, which builds it and shows what is printed."""

# ruff: noqa: T201

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.daemon import Daemon, eventually, mounts_under
from tests.support.images import MANIFEST, SmallImage, busybox_layer, digest_of, text_layer
from tests.support.layers import Layer, image_of
from tests.support.registry import Registry, registry

PROGRAMS = Path(os.environ["ORLOP_STARGZ"])
GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"
TOC = "containerd.io/snapshot/stargz/toc.digest"
SCRIPT = "cat /etc/motd; echo mine >/etc/motd; rm /bin/true; cat /etc/motd; ls /bin/true; echo $((40 + 2))"


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="stargz-", dir="/tmp") as name:
        yield Path(name)
        for point in mounts_under(Path(name)):
            subprocess.run(["umount", "-l", point], check=True)


@contextmanager
def stargz(folder: Path) -> Iterator[Path]:
    """The snapshotter's process; its socket."""
    socket = folder / "stargz.sock"
    (folder / "root").mkdir()
    with (folder / "log").open("w") as log:
        process = subprocess.Popen([PROGRAMS / "serve", socket, folder / "root"], stdout=log, stderr=log)
        try:
            assert eventually(socket.exists, bool, 10)
            yield socket
        finally:
            process.terminate()
            process.wait(10)


def lazy_image(folder: Path, tars: list[bytes]) -> SmallImage:
    """An image of eStargz layers, each with its table of contents named."""
    layers: list[Layer] = []
    contents: list[str] = []
    for tar in tars:
        (folder / "layer.tar").write_bytes(tar)
        command = [PROGRAMS / "convert", folder / "layer.tar", folder / "blob"]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
        toc, diff_id = done.stdout.split()
        layers.append(Layer(GZIP, (folder / "blob").read_bytes(), diff_id))
        contents.append(toc)
    image = image_of(layers, {"Cmd": ["sh"], "Env": ["PATH=/bin"]})
    document = image.document()
    for entry, toc in zip(document["layers"], contents, strict=True):
        entry["annotations"] = {TOC: toc}
    data = json.dumps(document).encode()
    target = {"mediaType": MANIFEST, "digest": digest_of(data), "size": len(data)}
    return SmallImage(target, {**image.blobs, digest_of(data): data})


def fetched(running: Registry) -> list[tuple[int, str]]:
    """What was read of blobs: status and the digest's beginning."""
    return [
        (each.status, each.path.rpartition("sha256:")[2][:12])
        for each in running.requests
        if each.method == "GET" and "/blobs/" in each.path
    ]


def test_an_image_is_run_lazily_on_a_foreign_snapshotter(folder: Path) -> None:
    image = lazy_image(folder, [busybox_layer(), text_layer("etc/motd", "lazy\n")])
    with registry() as running, stargz(folder) as socket:
        config = f'[proxy_plugins.stargz]\ntype = "snapshot"\naddress = "{socket}"\n'
        with Daemon(config) as daemon:
            reference = running.push("app:v1", image)
            began = time.monotonic()
            said = daemon.orlop("pull", "--snapshotter", "stargz", reference)
            daemon.must(said)
            print(f"\npulled in {time.monotonic() - began:.2f} s:\n{said.stderr.decode()}")
            print("read by now, as (status, blob):", *fetched(running), sep="\n  ")
            lines = Path("/proc/self/mountinfo").read_text().splitlines()
            types = [line.partition(" - ")[2].split()[0] for line in lines if f"{folder}/" in line]
            print("mounted below the snapshotter's folder:", types)
            assert len([each for each in types if each.startswith("fuse")]) == 2
            # No layer came into the daemon's store.
            stored = {line.split()[0] for line in daemon.must(daemon.ctr("content", "ls")).splitlines()[1:]}
            assert image.digest in stored
            assert not stored & set(image.layers)
            done = daemon.orlop("run", "--rm", "--snapshotter", "stargz", reference, "sh", "-c", SCRIPT)
            print("a container says:", done.stdout.decode().split("\n"))
            assert done.stdout == b"lazy\nmine\n42\n"
            second = daemon.orlop("run", "--rm", "--snapshotter", "stargz", reference, "cat", "/etc/motd")
            assert daemon.must(second) == "lazy\n"
            print(daemon.must(daemon.ctr("snapshots", "--snapshotter", "stargz", "ls")))
            daemon.must(daemon.orlop("rmi", reference))
            left = daemon.must(daemon.ctr("snapshots", "--snapshotter", "stargz", "ls"))
            assert left.splitlines()[1:] == []

            # One of ordinary layers is fetched and unpacked into it.
            plain = running.push("plain:v1")
            ran = daemon.orlop("run", "--rm", "--snapshotter", "stargz", plain, "echo", "plain")
            assert daemon.must(ran) == "plain\n"
            daemon.must(daemon.orlop("rmi", plain))
