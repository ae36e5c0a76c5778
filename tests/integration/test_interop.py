"""Layers go to other programs and come from them: skopeo, umoci and podman read ours, and we theirs."""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orlopd.plugin.values import chain_id
from orlopd.testing.differ import below, rich_tree
from tests.support.daemon import Daemon
from tests.support.images import (
    busybox_layer,
    digest_of,
    make_image,
    save_archive,
    text_layer,
    write_layout,
)
from tests.support.layers import Layer, Layers, diff_ids, image_of, inside

TAR = "application/vnd.oci.image.layer.v1.tar"
GZIP, ZSTD = f"{TAR}+gzip", f"{TAR}+zstd"
CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000")


@pytest.fixture(scope="module")
def layers() -> Iterator[Layers]:
    with Daemon() as daemon, Layers(daemon) as running:
        yield running


def run(*words: str | Path, cwd: Path | None = None) -> str:
    done = subprocess.run(
        [str(word) for word in words], capture_output=True, timeout=60, cwd=cwd, check=False
    )
    assert done.returncode == 0, (words, done.stderr.decode(errors="replace"))
    return done.stdout.decode()


def pull(daemon: Daemon, source: str) -> None:
    daemon.must(daemon.orlop("pull", source))


def test_an_import_tells_of_each_layers_unpacking(tmp_path: Path) -> None:
    image = make_image([text_layer("one", "1" * 50_000), text_layer("two", "2" * 50_000)])
    archive = save_archive(tmp_path / "two.tar", "docker.io/library/two:latest", image=image)
    with Daemon() as daemon:
        done = daemon.orlop("import", archive)
        assert daemon.must(done) == "docker.io/library/two:latest\n"
        told = [line.split(":")[-1].strip() for line in done.stderr.decode().splitlines()]
        assert told.count("unpacked") == 2
        assert daemon.orlop("import", "-q", archive).stderr == b""


class Podman:
    """podman with storage of its own and no service of the machine's."""

    def __init__(self, folder: Path) -> None:
        self._words = [
            *("podman", "--root", str(folder / "root"), "--runroot", str(folder / "run")),
            *("--storage-driver", "vfs", "--cgroup-manager", "cgroupfs", "--events-backend", "none"),
        ]

    def __call__(self, *words: str | Path) -> str:
        return run(*self._words, *words).strip()


@pytest.fixture
def podman() -> Iterator[Podman]:
    with tempfile.TemporaryDirectory(prefix="pod-", dir="/tmp") as folder:  # it wants short paths
        program = Podman(Path(folder))
        yield program
        program("rm", "--all", "--force")
        program("image", "unmount", "--all", "--force")


def make(root: Path) -> None:
    """One of everything."""
    rich_tree(root)
    for name in ("bin", "dir/sub", "hidden"):
        (root / name).mkdir(parents=True)
    for name in ("bin/ping", "dir/file", "dir/sub/file", "hidden/file", "gone"):
        (root / name).write_text(name)
    os.setxattr(root / "bin/ping", "security.capability", CAPABILITY)
    Path(os.fsdecode(os.fsencode(root) + b"/\xff\xfe")).write_text("no text")
    os.utime(root / "empty", ns=(0, 1_500_000_000))  # Go's programs know no time before 1970


def change(root: Path) -> None:
    """Some of every change."""
    (root / "gone").unlink()
    (root / "dir/new").write_text("new")
    (root / "dir/file").unlink()
    (root / "dir/file").mkdir()
    shutil.rmtree(root / "hidden")
    (root / "hidden").mkdir(mode=0o700)
    (root / "hidden/other").write_text("only this")
    (root / "etc/motd").chmod(0o600)
    os.link(root / "dir/new", root / "dir/again")
    (root / "link").unlink()
    (root / "link").symlink_to("dir/new")
    os.chown(root / "dir/sub", 7, 8)


def whole_seconds(tree: dict[str, Any]) -> dict[str, Any]:
    """With times as umoci writes them, to the nearest second."""
    return {name: (*facts[:3], (facts[3] + 5 * 10**8) // 10**9, *facts[4:]) for name, facts in tree.items()}


def without_attributes(tree: dict[str, Any]) -> dict[str, Any]:
    """Without extended attributes but for capabilities, which is all that podman keeps."""
    return {
        name: (*facts[:5], {key: facts[5][key] for key in facts[5] if key == "security.capability"}, facts[6])
        for name, facts in tree.items()
    }


def made(layers: Layers, media_type: str) -> tuple[Any, dict[str, Any]]:
    """An image of two layers that the daemon's Diff wrote, and what it shows."""
    base = layers.prepare("")
    inside(base, make)
    bottom = layers.diff([], base, media_type)
    parent = layers.commit()
    top = layers.prepare(parent)
    inside(top, change)
    upper = layers.diff(layers.prepare(parent, view=True), top, media_type)
    return image_of([bottom, upper]), inside(top, below)


def test_skopeo_umoci_and_podman_read_our_layers(layers: Layers, podman: Podman, tmp_path: Path) -> None:
    image, shown = made(layers, GZIP)
    layout = write_layout(tmp_path / "layout", "v1", image)
    run("skopeo", "copy", f"oci:{layout}:v1", f"docker-archive:{tmp_path}/docker.tar:made:v1")
    with tarfile.open(tmp_path / "docker.tar") as archive:
        names = {Path(name).name.removesuffix(".tar") for name in archive.getnames()}
    assert {each.removeprefix("sha256:") for each in diff_ids(layout, "v1")} <= names
    run("umoci", "unpack", "--image", f"{layout}:v1", tmp_path / "bundle")
    assert below(tmp_path / "bundle/rootfs") == shown
    pulled = podman("pull", f"oci:{layout}:v1")
    assert without_attributes(below(Path(podman("image", "mount", pulled)))) == without_attributes(shown)


def test_podman_reads_our_zstd_layers(layers: Layers, podman: Podman, tmp_path: Path) -> None:
    image, shown = made(layers, ZSTD)
    layout = write_layout(tmp_path / "layout", "v1", image)
    pulled = podman("pull", f"oci:{layout}:v1")
    assert without_attributes(below(Path(podman("image", "mount", pulled)))) == without_attributes(shown)


def test_what_umoci_repacked_and_inserted_is_read(layers: Layers, tmp_path: Path) -> None:
    image, _ = made(layers, GZIP)
    layout, bundle = write_layout(tmp_path / "layout", "v1", image), tmp_path / "bundle"
    run("umoci", "unpack", "--image", f"{layout}:v1", bundle)
    before = (bundle / "rootfs/dir").stat().st_mtime_ns
    (bundle / "rootfs/dir/again").unlink()
    os.utime(bundle / "rootfs/dir", ns=(before, before))  # umoci tells no directory's time that alone changed
    shutil.rmtree(bundle / "rootfs/hidden")
    (bundle / "rootfs/made").mkdir()
    make(bundle / "rootfs/made")
    run("umoci", "repack", "--image", f"{layout}:v2", bundle)
    pull(layers.daemon, f"oci-layout:{layout}:v2")
    chain = chain_id(diff_ids(layout, "v2"))
    assert whole_seconds(layers.see(chain, below)) == whole_seconds(below(bundle / "rootfs"))

    source = tmp_path / "source"
    source.mkdir()
    make(source)
    run("umoci", "insert", "--image", f"{layout}:v2", "--opaque", source, "/dir")
    pull(layers.daemon, f"oci-layout:{layout}:v2")
    chain = chain_id(diff_ids(layout, "v2"))
    inserted = layers.see(chain, lambda root: below(root / "dir"))
    assert whole_seconds(inserted) == whole_seconds(below(source))


def test_what_podman_built_and_committed_is_read(layers: Layers, podman: Podman, tmp_path: Path) -> None:
    busybox = busybox_layer()
    layout = write_layout(tmp_path / "base", "v1", image_of([Layer(TAR, busybox, digest_of(busybox))]))
    base = podman("pull", f"oci:{layout}:v1")
    context = tmp_path / "context"
    (context / "tree").mkdir(parents=True)
    make(context / "tree")
    script = "rm -r /made/hidden /bin/true && mkdir /made/hidden && echo ran >/made/etc/ran"
    (context / "Dockerfile").write_text(f"FROM {base}\nCOPY tree /made\nRUN {script}\n")
    podman("build", "--isolation", "chroot", "--layers", "--format", "oci", "-t", "built", context)
    container = podman("create", "built", "sh")
    change(Path(podman("mount", container)) / "made")
    podman("umount", container)
    podman("commit", "--format", "oci", container, "committed")
    shown = below(Path(podman("image", "mount", "committed")))
    assert "made/etc/ran" in shown
    podman("save", "--format", "oci-dir", "-o", tmp_path / "saved", "committed")
    pull(layers.daemon, f"oci-layout:{tmp_path}/saved")
    assert layers.see(chain_id(diff_ids(tmp_path / "saved")), below) == shown
