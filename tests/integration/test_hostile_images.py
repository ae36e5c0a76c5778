"""Hostile images, pulled: nothing outside is touched, no part of a layer is left, one clear error each.

What a worker makes of an archive is in the kit for differs; this is the whole way, registry to snapshot.
"""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest

from orlop_protos.orlop.engine.v1 import images_pb2, images_pb2_grpc
from orlopd.testing.archives import Member, archive, folder, header, link, padded, symlink
from orlopd.testing.differ import Host
from tests.support.daemon import Daemon, eventually, mounts_under
from tests.support.faulty import faulty_registry
from tests.support.images import MANIFEST, SmallImage, digest_of
from tests.support.layers import Layer, Layers, image_of

TAR = "application/vnd.oci.image.layer.v1.tar"
SNAPSHOTTERS = ("overlayfs", "vfs", "erofs")
REFUSED = (
    *(grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.DATA_LOSS),
)
LIMITS = "".join(
    f"[plugins.differ.{differ}]\nmax_entries = 1000\nmax_size = 8388608\n"
    for differ in ("walking", "erofs-layers")
)
TRAP = "#!/bin/sh\ntouch {host}/trapped\ncat\n"

Members = Sequence[Member | bytes]
Making = Callable[[Path], Members]

BASE = archive([folder("etc"), Member("etc/motd", b"hello"), folder("usr/bin"), symlink("up", "..")])


def chain(host: Path) -> Members:
    """A way too long to be resolved at once."""
    members: list[Member] = []
    path = ""
    for letter in "abcdefghijklmnop":
        members += [folder(f"{path}{'d' * 240}"), symlink(f"{path}{letter}", "d" * 240)]
        path += f"{letter}/"
    return [
        *members,
        symlink(f"{path}{'l' * 250}", "../" * 16),
        symlink("escape", f"{path}{'l' * 250}/../../../..{host}"),
        Member("escape/secret", b"hacked"),
    ]


def looks_inside(host: Path) -> Members:
    up = "/".join([".."] * 30)
    return [
        *(folder("a"), folder("a/b"), symlink("a/b/c", "../../a/b")),
        symlink("out", f"a/b/c/../../../{up}{host}"),
        Member("out/secret", b"hacked", mode=0o777),
        Member("out/.wh.secret"),
    ]


# Those that can do no harm, whether they are refused or not.
HARMLESS: Mapping[str, Making] = {
    "CVE-2025-47290 a write through a symlink": lambda host: [
        *(symlink("way", str(host)), Member("way/secret", b"hacked"), folder("way/made")),
    ],
    "CVE-2025-47290 a directory that becomes a symlink": lambda host: [
        *(folder("d"), Member("d/secret", b"1"), symlink("d", str(host)), Member("d/secret", b"hacked")),
        *(Member("d/.wh.secret"), Member("d/.wh..wh..opq")),
    ],
    "CVE-2025-47290 a symlink of the layer below": lambda host: [
        *(Member(f"up/up/up/up/up/up{host}/secret", b"hacked"), Member(f"up{host}/.wh.secret")),
    ],
    "CVE-2025-4517 a long chain of symlinks": chain,
    "CVE-2025-4330 a target that looks inside": looks_inside,
    "CVE-2025-4138 a link to a link": lambda host: [
        *(symlink("target", str(host / "secret")), link("name", "target"), Member("name", b"hacked")),
        Member("other", type=b"1", link="target", mode=0o777, uid=5),
    ],
    "CVE-2026-41567 a decompressor in the image": lambda host: [
        Member(name, TRAP.format(host=host).encode(), mode=0o755)
        for name in ("usr/bin/unpigz", "usr/bin/igzip", "bin/gzip", "bin/sh", "unpigz", "sbin/zstd")
    ],
    "an absolute name": lambda host: [
        Member(f"{host}/secret", b"hacked"),
        Member("//proc/self/root/x", b"x"),
    ],
    "a device that is the host's disk": lambda host: [Member("disk", type=b"4", device=(8, 0), mode=0o666)],
}

# Those that must be refused.
HOSTILE: Mapping[str, Making] = {
    "CVE-2021-32760 a hard link to a file of the host": lambda host: [
        *(symlink("s", str(host / "secret")), Member("h", type=b"1", link="s", mode=0o777, uid=5)),
        Member("h2", type=b"1", link=str(host / "secret"), mode=0o777),
    ],
    "CVE-2025-8194 a negative size": lambda host: [Member("a", size=-512), Member("b", b"b")],
    "CVE-2025-8194 a negative size of a header": lambda host: [header(b"p", b"x", -512), Member("a")],
    "CVE-2024-6232 an evil extended header": lambda host: [
        header(b"p", b"x", 500_000) + padded(b"1" * 500_000),
        Member("a"),
    ],
    "dots": lambda host: [Member(f"{'../' * 30}{host}/secret", b"hacked")],
    "dots of a link": lambda host: [link("mine", f"{'../' * 30}{host}/secret")],
    "a whiteout of the root": lambda host: [Member(".wh..")],
    "a whiteout of the parent": lambda host: [Member("etc/.wh...")],
    "a root that is a symlink": lambda host: [symlink("/", str(host))],
    "absurd device numbers": lambda host: [Member("dev", type=b"3", device=(1 << 20, 0))],
    "an owner beyond 32 bits": lambda host: [Member("a", uid=1 << 32)],
    "a bomb of entries": lambda host: [Member(f"{number}") for number in range(1001)],
    "a bomb of bytes": lambda host: [Member("zeros", bytes(9 << 20))],
    "a bomb of a sparse file": lambda host: [
        Member(
            "x",
            padded(b"1\n0\n0\n"),
            pax={
                b"GNU.sparse.major": b"1",
                b"GNU.sparse.minor": b"0",
                b"GNU.sparse.realsize": b"%d" % (1 << 60),
            },
        )
    ],
    "a bomb of extended headers": lambda host: [(header(b"p", b"L", 100) + padded(b"x" * 100)) * 5000],
    "a huge extended header": lambda host: [header(b"p", b"x", 1 << 40)],
    "a name that is too long": lambda host: [Member("x", pax={b"path": b"n" * 300})],
}


class Target:
    """The daemon that is attacked, and what there is of it."""

    def __init__(self, layers: Layers) -> None:
        self.daemon = layers.daemon
        self._layers = layers
        self._images: Any = images_pb2_grpc.ImageServiceStub(layers.channel)

    def pull(self, image: SmallImage, snapshotter: str = "overlayfs") -> str:
        """Pull from a registry; what the error says, or ""."""
        with faulty_registry(image) as registry:
            request = images_pb2.PullRequest(reference=registry.reference, snapshotter=snapshotter)
            metadata = [("containerd-namespace", self.daemon.namespace)]
            try:
                for _ in self._images.Pull(request, metadata=metadata, timeout=60):
                    pass
            except grpc.RpcError as failure:
                error: Any = failure
                assert error.code() in REFUSED, error
                said = str(error.details())
                assert said
                assert said.isprintable()
                assert len(said) < 700
                assert not [key for key in self._layers.keys(snapshotter) if "extract-" in key]
                return said
            removal = images_pb2.RemoveImageRequest(name=registry.reference)
            self._images.RemoveImage(removal, metadata=metadata, timeout=60)
            return ""

    def left(self) -> dict[str, list[str]]:
        """All there is after a collection, on the disk too."""
        self._layers.collect()
        folders = [
            str(path.relative_to(self.daemon.root))
            for name in SNAPSHOTTERS
            for path in self.daemon.root.glob(f"snapshotter/{name}/snapshots/*")
        ]
        blobs = [path.name for path in self.daemon.root.glob("content/*/blobs/*/*")]
        return {"folders": folders, "blobs": blobs, "mounts": mounts_under(self.daemon.folder)}

    def is_clean(self) -> bool:
        """Whether all is gone, which takes a moment."""
        return not any(eventually(self.left, lambda left: not any(left.values()), 5).values())


@pytest.fixture(scope="module")
def target() -> Iterator[Target]:
    with Daemon(LIMITS) as daemon, Layers(daemon) as layers:
        yield Target(layers)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def image(*tars: bytes) -> SmallImage:
    return image_of([Layer(f"{TAR}+gzip", gzip.compress(tar, 1, mtime=0), digest_of(tar)) for tar in tars])


@pytest.mark.parametrize("snapshotter", SNAPSHOTTERS)
@pytest.mark.parametrize("case", list(HOSTILE))
def test_a_hostile_layer_is_one_error_and_leaves_nothing(
    target: Target, host: Host, case: str, snapshotter: str
) -> None:
    assert target.pull(image(BASE, archive(HOSTILE[case](host.path))), snapshotter)
    host.check()
    assert [path.name for path in host.path.iterdir()] == ["secret"]
    assert target.is_clean()


@pytest.mark.parametrize("snapshotter", SNAPSHOTTERS)
@pytest.mark.parametrize("case", list(HARMLESS))
def test_an_attack_changes_nothing_outside(target: Target, host: Host, case: str, snapshotter: str) -> None:
    target.pull(image(BASE, archive(HARMLESS[case](host.path)), archive([Member("last", b"x")])), snapshotter)
    host.check()
    assert [path.name for path in host.path.iterdir()] == ["secret"]
    assert target.is_clean()


def manifest(changes: Mapping[str, Any], **descriptor: Any) -> SmallImage:
    """A sound image but for its manifest."""
    sound = image(BASE)
    data = json.dumps({**sound.document(), **changes}).encode()
    target = {"mediaType": MANIFEST, "digest": digest_of(data), "size": len(data)}
    return SmallImage(target | descriptor, {**sound.blobs, digest_of(data): data})


LAYER = {"mediaType": f"{TAR}+gzip", "digest": digest_of(b""), "size": 0}
DOCUMENTS: Mapping[str, tuple[SmallImage, str]] = {
    "CVE-2021-41190 manifests beside layers": (manifest({"manifests": []}), "ambiguous"),
    "CVE-2021-41190 another media type inside": (
        manifest({"mediaType": "application/vnd.oci.image.index.v1+json"}),
        "media type|says it is|Content-Type",
    ),
    "CVE-2023-25153 a giant manifest": (manifest({"annotations": {"a": "x" * (9 << 20)}}), "limit"),
    "CVE-2024-3727 a digest that is a path": (
        manifest({"layers": [LAYER | {"digest": "sha256:../../../../../../etc/passwd"}]}),
        "digest",
    ),
    "CVE-2024-3727 an algorithm that is a path": (
        manifest({"config": LAYER | {"digest": "../../../../etc:" + "0" * 64}}),
        "digest",
    ),
    "a bomb of layers": (manifest({"layers": [LAYER] * 5000}), "1024"),
}


@pytest.mark.parametrize("case", list(DOCUMENTS))
def test_a_hostile_manifest_is_one_error_and_leaves_nothing(target: Target, case: str) -> None:
    hostile, said = DOCUMENTS[case]
    found = target.pull(hostile)
    assert any(word in found for word in said.split("|")), found
    assert target.is_clean()


def test_cve_2024_24557_content_under_a_known_digest_is_what_was_verified(target: Target) -> None:
    """A layer that was stored counts for an image by its digest, never for what another image says it is."""
    honest, other = archive([Member("honest", b"1")]), archive([Member("other", b"2")])
    data = gzip.compress(honest, 1, mtime=0)
    sound = image_of([Layer(f"{TAR}+gzip", data, digest_of(honest))])
    lying = image_of([Layer(f"{TAR}+gzip", data, digest_of(other))])
    assert target.pull(sound) == ""
    assert "does not match" in target.pull(lying)
    # Nor does a registry's other answer for the digest come in its place.
    swapped = SmallImage(sound.target, {**sound.blobs, digest_of(data): gzip.compress(other, 1, mtime=0)})
    assert target.is_clean()
    assert digest_of(data) in target.pull(swapped)
    assert target.is_clean()


def test_an_extreme_ratio_is_refused_by_config(host: Host) -> None:
    # Zeros behind the archive's end: they are looked at, since the digest covers them, and never written.
    zeros = gzip.compress(bytes(64 << 20), 9) * 17
    tar = archive([Member("a", b"a")])
    data = gzip.compress(tar) + zeros
    bomb = image_of([Layer(f"{TAR}+gzip", data, digest_of(tar))])
    with Daemon("[plugins.differ.walking]\nmax_ratio = 20\n") as daemon, Layers(daemon) as layers:
        attacked = Target(layers)
        assert "more than 20 times its size" in attacked.pull(bomb)
        assert attacked.is_clean()


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ([Member(f"{number}") for number in range(1001)], "more than 1000 entries"),
        ([Member("random", os.urandom(9 << 20))], "more than 8388608"),
    ],
    ids=["max_entries", "max_size"],
)
def test_what_goes_beyond_a_limit_of_the_config_is_rolled_back(
    target: Target, members: Members, said: str
) -> None:
    # The layers around it are sound, and gone all the same.
    stack = image(BASE, archive(members), archive([Member("above", b"x")]))
    assert said in target.pull(stack)
    assert target.is_clean()
