"""Images out of directories and archives of the daemon's machine."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from orlopd.core.progress import BlobState
from orlopd.plugin.errors import DataLoss, InvalidArgument, NotFound, OrlopError, Unimplemented
from tests.registry.conftest import NOTHING, SCOPE, Rig
from tests.support.daemon import Daemon, daemon
from tests.support.images import (
    ARCHITECTURE,
    SmallImage,
    digest_of,
    layout_tar,
    make_image,
    make_index,
    save_archive,
    save_docker_archive,
    text_layer,
    write_layout,
)

__all__ = ["daemon"]


def small(mark: str = "x") -> SmallImage:
    return make_image([text_layer("one", f"1 {mark}"), text_layer("two", f"2 {mark}")])


def entry(image: SmallImage, name: str) -> dict[str, Any]:
    return image.target | {"annotations": {"org.opencontainers.image.ref.name": name}}


async def test_a_layout_directory_is_pulled_as_from_a_registry(rig: Rig, tmp_path: Path) -> None:
    mine = small("layout")
    index = make_index({f"linux/{ARCHITECTURE}": mine, "linux/riscv64": small("other")})
    folder = write_layout(tmp_path / "My App", "v1", index)
    image = await rig.pull(f"oci-layout:{folder}:v1")
    assert (image.name, image.target.digest) == ("localhost/my-app:v1", index.digest)
    assert rig.states(mine.layers[0])[-1] is BlobState.UNPACKED
    assert (await rig.pull(f"oci-layout:{folder}")).target.digest == index.digest
    assert (await rig.left())["leases"] == []


async def test_what_skopeo_wrote_is_read(rig: Rig, tmp_path: Path) -> None:
    image = small("skopeo")
    folder = write_layout(tmp_path / "in", "v1", image)
    for kind in ("oci-archive", "docker-archive"):
        words = [f"oci:{folder}:v1", f"{kind}:{tmp_path}/{kind}.tar:ghcr.io/team/app:{kind}"]
        done = subprocess.run(["skopeo", "copy", *words], capture_output=True, timeout=60)  # noqa: ASYNC221
        assert done.returncode == 0, done.stderr
        pulled = await rig.pull(f"{kind}:{tmp_path}/{kind}.tar")
        assert pulled.name == f"ghcr.io/team/app:{kind}"
        if kind == "oci-archive":
            assert pulled.target.digest == image.digest
        config, _, _ = await rig.stored.image_config(SCOPE, pulled.target)
        written = image.document(image.document()["config"]["digest"])
        assert list(config.diff_ids) == written["rootfs"]["diff_ids"]


async def test_an_archive_of_several_wants_to_know_which(rig: Rig, tmp_path: Path) -> None:
    one, two = small("1"), small("2")
    both = SmallImage(one.target, {**one.blobs, **two.blobs})
    path = tmp_path / "both.tar"
    path.write_bytes(layout_tar(both, [entry(one, "one"), entry(two, "ghcr.io/team/two:2")]))
    with pytest.raises(NotFound, match=r"has several images; there is: one, ghcr\.io/team/two:2"):
        await rig.pull(f"oci-archive:{path}")
    with pytest.raises(NotFound, match="'three' is not in"):
        await rig.pull(f"oci-archive:{path}:three")
    assert (await rig.pull(f"oci-archive:{path}:one")).name == "localhost/both:one"
    pulled = await rig.pull(f"oci-archive:{path}:ghcr.io/team/two:2")
    assert (pulled.name, pulled.target.digest) == ("ghcr.io/team/two:2", two.digest)


async def test_a_docker_archive_keeps_its_name(rig: Rig, tmp_path: Path) -> None:
    path = save_docker_archive(
        tmp_path / "a.tar", "app:1", "ghcr.io/team/app:2", layers=[text_layer("a", "a")]
    )
    assert (await rig.pull(f"docker-archive:{path}")).name == "docker.io/library/app:1"
    assert (await rig.pull(f"docker-archive:{path}:ghcr.io/team/app:2")).name == "ghcr.io/team/app:2"


async def test_long_names_of_a_tar_are_read(rig: Rig, tmp_path: Path) -> None:
    image = small("long")
    folder = write_layout(tmp_path / "in", "v1", image)
    for style in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT):
        path = tmp_path / f"{style}.tar"
        with tarfile.open(path, "w", format=style) as tar:
            for file in sorted(folder.rglob("*")):
                tar.add(file, "./" + ("x/../" * 12) + str(file.relative_to(folder)), recursive=False)
        assert (await rig.pull(f"oci-archive:{path}")).target.digest == image.digest


@pytest.mark.parametrize(
    "reference", ["oci-layout:relative/path", "oci-archive:", "docker-archive::tag", "oci-layout:/a\0b"]
)
async def test_a_path_is_absolute(rig: Rig, reference: str) -> None:
    with pytest.raises(InvalidArgument, match="names no absolute path"):
        await rig.pull(reference)


async def test_nothing_is_pushed_to_a_file(rig: Rig, tmp_path: Path) -> None:
    image = await rig.pull(f"oci-layout:{write_layout(tmp_path / 'a', 'v1', small())}")
    for kind in ("oci-archive", "docker-archive"):
        with pytest.raises(Unimplemented, match="nothing can be pushed"):
            await rig.push(image.name, f"{kind}:{tmp_path}/b")


async def test_an_image_is_pushed_to_a_directory_and_read_by_us_and_by_others(
    rig: Rig, tmp_path: Path
) -> None:
    index = make_index({f"linux/{ARCHITECTURE}": small("out"), "linux/riscv64": small("other")})
    place = tmp_path / "out"
    reference = f"oci-layout:{place}:v1"
    first = await rig.pull(f"oci-layout:{write_layout(tmp_path / 'in', 'v1', index)}", also=None)
    rig.events.clear()
    await rig.push(first.name, reference)
    assert {rig.states(layer)[-1] for layer in index.layers} == {BlobState.PUSHED}
    assert stored(place) == set(index.blobs)
    # Again, under another name, and another image beside it: each blob once, and nothing gets lost.
    await rig.push(first.name, f"oci-layout:{place}:v2")
    await rig.push(first.name, reference)
    more = await rig.pull(f"oci-layout:{write_layout(tmp_path / 'more', 'v1', small('more'))}")
    await rig.push(more.name, f"oci-layout:{place}:{more.target.digest}")
    entries = json.loads((place / "index.json").read_text())["manifests"]
    assert [(entry.get("annotations"), entry["digest"]) for entry in entries] == [
        ({"org.opencontainers.image.ref.name": "v1"}, index.digest),
        ({"org.opencontainers.image.ref.name": "v2"}, index.digest),
        (None, more.target.digest),
    ]
    # A name that moves leaves its old place.
    await rig.push(more.name, reference)
    assert (await rig.pull(reference)).target.digest == more.target.digest
    assert (await rig.pull(f"oci-layout:{place}:v2")).target.digest == index.digest
    words = ["skopeo", "inspect", "--raw", f"oci:{place}:v2"]
    done = subprocess.run(words, capture_output=True, timeout=60)  # noqa: ASYNC221
    assert done.stdout == index.blobs[index.digest]


def test_a_person_pushes_to_a_directory_and_imports_one(daemon: Daemon, tmp_path: Path) -> None:
    image, name = small("person"), "docker.io/library/person:1"
    daemon.must(daemon.orlop("import", save_archive(tmp_path / "a.tar", name, image=image)))
    place = f"oci-layout:{tmp_path}/out:1"
    assert daemon.must(daemon.orlop("push", "-q", name, place)) == f"{place} {image.digest}\n"
    daemon.must(daemon.orlop("rmi", name))
    said = daemon.orlop("import", "--name", "back:1", tmp_path / "out")
    assert daemon.must(said) == "docker.io/library/back:1\n"
    assert image.digest in daemon.must(daemon.orlop("images", "--no-trunc"))
    daemon.must(daemon.orlop("rmi", "back:1"))
    (tmp_path / "out" / "index.json").unlink()
    refused = daemon.orlop("import", "--name", "back:1", tmp_path / "out")
    assert (refused.returncode, b"neither an OCI layout" in refused.stderr) == (1, True)


def stored(place: Path) -> set[str]:
    """The blobs of a layout, and whatever else lies between them."""
    return {f"sha256:{path.name}" for path in (place / "blobs" / "sha256").iterdir()}


async def test_what_is_no_place_to_push_to_is_left_alone(rig: Rig, tmp_path: Path) -> None:
    image = await rig.pull(f"oci-layout:{write_layout(tmp_path / 'in', 'v1', small())}")
    busy = tmp_path / "busy"
    busy.mkdir()
    (busy / "mine").write_text("mine")
    for place, error in {
        f"{busy}:v1": "is no OCI layout, and not empty",
        f"{tmp_path}/absent/out:v1": "there is no directory",
        f"{busy}/mine:v1": "there is no directory",
        f"{tmp_path}/out:-v1": "is no name",
        f"{tmp_path}/out:{digest_of(b'else')}": "names another digest",
        "relative:v1": "names no absolute path",
    }.items():
        with pytest.raises(OrlopError, match=error):
            await rig.push(image.name, f"oci-layout:{place}")
    assert [path.name for path in busy.iterdir()] == ["mine"]
    # Links in a layout lead nowhere.
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    (linked / "blobs").symlink_to(busy)
    with pytest.raises(OrlopError):
        await rig.push(image.name, f"oci-layout:{linked}:v1")
    assert [path.name for path in busy.iterdir()] == ["mine"]


async def test_pushes_to_one_directory_at_once_lose_nothing(rig: Rig, tmp_path: Path) -> None:
    image = await rig.pull(f"oci-layout:{write_layout(tmp_path / 'in', 'v1', small())}")
    async with anyio.create_task_group() as group:
        for number in range(8):
            group.start_soon(rig.push, image.name, f"oci-layout:{tmp_path}/out:v{number}")
    entries = json.loads((tmp_path / "out" / "index.json").read_text())["manifests"]
    assert len(entries) == 8
    assert stored(tmp_path / "out") == stored(tmp_path / "in")


def broken(what: str) -> Callable[[Path], str]:
    def make(folder: Path) -> str:
        image = small("broken")
        layer = folder / "layout/blobs" / image.layers[0].replace(":", "/")
        write_layout(folder / "layout", "v1", image)
        data = layer.read_bytes()
        match what:
            case "absent":
                return f"oci-layout:{folder}/absent"
            case "a file":
                return f"oci-layout:{layer}"
            case "no layout":
                (folder / "layout/oci-layout").unlink()
            case "another version":
                (folder / "layout/oci-layout").write_text('{"imageLayoutVersion":"2.0.0"}')
            case "no blob":
                layer.unlink()
            case "a short blob":
                layer.write_bytes(data[:-1])
            case "another blob":
                layer.write_bytes(bytes(len(data)))
            case "a link":
                layer.unlink()
                layer.symlink_to("/etc/passwd")
            case "a pipe":
                layer.unlink()
                os.mkfifo(layer)
            case "an evil digest":
                bad = {"mediaType": image.target["mediaType"], "digest": "sha256:../../x", "size": 5}
                (folder / "layout/index.json").write_text(json.dumps({"manifests": [bad]}))
            case "lists all the way":
                (folder / "layout/index.json").write_text("[" * 100_000)
        return f"oci-layout:{folder}/layout"

    return make


@pytest.mark.parametrize(
    "what",
    [
        "absent",
        "a file",
        "no layout",
        "another version",
        "no blob",
        "a short blob",
        "another blob",
        "a link",
        "a pipe",
        "an evil digest",
        "lists all the way",
    ],
)
async def test_a_broken_layout_is_one_error_and_leaves_nothing(rig: Rig, tmp_path: Path, what: str) -> None:
    with pytest.raises(OrlopError) as refused:
        await rig.pull(broken(what)(tmp_path))
    assert "root:" not in refused.value.message
    left = await rig.left()
    assert left | {"ingests": []} == NOTHING


@pytest.mark.parametrize("damage", ["gzip", "truncated", "noise", "header", "size", "empty", "docker"])
async def test_a_broken_archive_is_one_error_and_leaves_nothing(
    rig: Rig, tmp_path: Path, damage: str
) -> None:
    path = save_archive(tmp_path / "a.tar", "docker.io/library/a:1", image=small("damaged"))
    data, kind = path.read_bytes(), "oci-archive"
    match damage:
        case "gzip":
            data = gzip.compress(data)
        case "truncated":
            data = data[: len(data) // 2]
        case "noise":
            data = b"\xff\x80" * 2000
        case "header":
            data = data[:600] + b"\xff" * 2000 + data[2600:]
        case "size":
            data = data[:124] + b"\x80" + b"\xff" * 11 + data[136:]
        case "empty":
            data = b""
        case _:
            kind = "docker-archive"
    path.write_bytes(data)
    with pytest.raises((InvalidArgument, NotFound, DataLoss)):
        await rig.pull(f"{kind}:{path}")
    left = await rig.left()
    assert left | {"ingests": []} == NOTHING
