"""containerd.services.diff.v1 as a client sees it: what its requests carry, processors, limits."""

from __future__ import annotations

import io
import lzma
import os
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import any_pb2, timestamp_pb2

from tests.support.daemon import Daemon
from tests.support.images import busybox_layer, digest_of, save_archive, text_layer
from tests.support.layers import Layer, Layers, image_of, inside

TAR = "application/vnd.oci.image.layer.v1.tar"
DOCKER = "application/vnd.docker.image.rootfs.diff.tar"
DOCS = Path(__file__).parents[2] / "docs" / "plugins.md"
MASK = """
from orlopd.plugin import Provider, hookimpl
from orlopd.plugin.errors import InvalidArgument


class Mask:
    def returns(self, media_type):
        return media_type.removesuffix("+masked") if media_type.endswith("+masked") else ""

    async def process(self, layer, blob, payload):
        if payload is None:
            raise InvalidArgument(f"layer {layer.digest} is masked, and the request has no key for it")
        offset = 0
        while data := await blob.read_at(offset, 1000):
            offset += len(data)
            yield bytes(byte ^ payload.value[0] for byte in data)


@hookimpl
def orlop_processors():
    yield Provider("mask", lambda context: Mask())
"""


def page() -> str:
    """The processor that the guide shows."""
    pages = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)
    (found,) = (each for each in pages if "orlop_processors" in each)
    return found


@pytest.fixture(scope="module")
def layers() -> Iterator[Layers]:
    with Daemon(plugins={"xz.py": page(), "mask.py": MASK}) as daemon, Layers(daemon) as running:
        yield running


def make(root: Path) -> None:
    (root / "old").write_text("old")
    os.utime(root / "old", (1000, 1000))
    (root / "new").write_text("new")
    (root / "gone").touch()


def change(root: Path) -> None:
    (root / "gone").unlink()
    (root / "newer").mkdir()


def times(layer: Layer) -> dict[str, float]:
    with tarfile.open(fileobj=io.BytesIO(layer.data)) as archive:
        return {member.name: member.mtime for member in archive}


def test_no_time_in_a_layer_is_later_than_the_source_date_epoch(layers: Layers) -> None:
    base = layers.prepare("")
    inside(base, make)
    epoch = timestamp_pb2.Timestamp(seconds=5000, nanos=500_000_000)
    bottom = layers.diff([], base, source_date_epoch=epoch)
    assert times(bottom) == {"old": 1000, "new": 5000.5, "gone": 5000.5}
    parent = layers.commit()
    top = layers.prepare(parent)
    inside(top, change)
    assert times(layers.diff(layers.prepare(parent, view=True), top, source_date_epoch=epoch)) == {
        ".wh.gone": 0,
        "newer": 5000.5,
    }
    with pytest.raises(grpc.RpcError, match="malformed timestamp") as caught:
        layers.diff([], base, source_date_epoch=timestamp_pb2.Timestamp(nanos=-1))
    error: Any = caught.value
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("media_type", "magic"),
    [
        ("", b"\x1f\x8b"),
        (TAR, b"PaxHeaders.0/old"),
        (f"{TAR}+gzip", b"\x1f\x8b"),
        (f"{TAR}+zstd", b"\x28\xb5\x2f\xfd"),
        (DOCKER, b"PaxHeaders.0/old"),
        (f"{DOCKER}.gzip", b"\x1f\x8b"),
        (f"{DOCKER}.zstd", b"\x28\xb5\x2f\xfd"),
    ],
)
def test_the_media_type_says_how_a_layer_is_compressed(layers: Layers, media_type: str, magic: bytes) -> None:
    base = layers.prepare("")
    inside(base, lambda root: (root / "old").touch())
    made = layers.diff([], base, media_type, ref=f"mine-{media_type}", labels={"mine": "yes"})
    assert made.media_type == (media_type or f"{TAR}+gzip")
    assert made.data.startswith(magic)
    labels = layers.labels(made.data)
    assert labels["mine"] == "yes"
    assert labels["containerd.io/uncompressed"] == made.diff_id
    target = layers.prepare("")
    assert layers.apply(made, target, sync_fs=True) == made.diff_id
    assert inside(target, os.listdir) == ["old"]


def test_an_unknown_media_type_is_not_implemented(layers: Layers) -> None:
    with pytest.raises(grpc.RpcError, match="no differ handles media type") as caught:
        layers.diff([], layers.prepare(""), "application/x-tar")
    error: Any = caught.value
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED


def test_an_image_of_layers_that_a_processor_reads_is_pulled_and_run(layers: Layers, tmp_path: Path) -> None:
    stack = [
        Layer(f"{TAR}+xz", lzma.compress(tar), digest_of(tar))
        for tar in (busybox_layer(), text_layer("etc/motd", "from xz\n"))
    ]
    image = image_of(stack, {"Cmd": ["cat", "/etc/motd"], "Env": ["PATH=/bin"]})
    daemon = layers.daemon
    daemon.must(
        daemon.orlop("import", save_archive(tmp_path / "xz.tar", "docker.io/library/xz:1", image=image))
    )
    assert daemon.must(daemon.orlop("run", "--rm", "xz:1")) == "from xz\n"
    listed = [line.split() for line in daemon.must(daemon.orlop("plugins")).splitlines()]
    assert ["dev.orlop.processor.v1", "xz", "ok"] in [words[:3] for words in listed]


def test_what_comes_out_of_a_processor_must_be_what_the_image_says(layers: Layers, tmp_path: Path) -> None:
    before = layers.keys()
    other = Layer(f"{TAR}+xz", lzma.compress(text_layer("other", "other")), digest_of(b"what it says"))
    broken = Layer(f"{TAR}+xz", b"no xz at all", digest_of(text_layer("broken", "broken")))
    for layer, said in ((other, b"does not match"), (broken, b"processor xz failed")):
        path = save_archive(tmp_path / "bad.tar", "docker.io/library/bad:1", image=image_of([layer]))
        refused = layers.daemon.orlop("import", path)
        assert refused.returncode != 0
        assert said in refused.stderr
    assert layers.keys() == before


def test_processors_are_chained_and_get_what_the_request_has_for_them(layers: Layers, tmp_path: Path) -> None:
    tar = text_layer("secret", "text\n")
    masked = bytes(byte ^ 42 for byte in lzma.compress(tar))
    layer = Layer(f"{TAR}+xz+masked", masked, digest_of(tar))
    layers.add(layer.data)
    target = layers.prepare("")
    with pytest.raises(grpc.RpcError, match="the request has no key for it"):
        layers.apply(layer, target)
    key = any_pb2.Any(type_url="example.com/key", value=bytes([42]))
    assert layers.apply(layer, target, payloads={"mask": key, "other": any_pb2.Any()}) == digest_of(tar)
    assert inside(target, lambda root: (root / "secret").read_text()) == "text\n"
