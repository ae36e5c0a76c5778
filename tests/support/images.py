"""Small images made without a daemon: busybox in one layer, or any layers, as archives or layouts."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import platform as machine
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BUSYBOX = Path("/bin/busybox")

INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"

ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}.get(machine.machine(), machine.machine())
APPLETS = (
    "sh", "cat", "echo", "env", "false", "head", "hostname", "id", "kill", "ls", "mkdir", "mount", "printf",
    "ps", "pwd", "rm", "seq", "sleep", "stat", "stty", "tail", "tee", "test", "touch", "true", "tty",
    "umount", "uname", "wc", "yes",
)  # fmt: skip

Json = dict[str, Any]


def digest_of(data: bytes) -> str:
    """The sha256 digest of ``data``."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


@dataclass(frozen=True)
class File:
    """An entry of a layer: bytes, or the target of a symlink, or nothing for a directory."""

    name: str
    data: bytes | str | None
    mode: int = 0o644


def tar_of(entries: Iterable[File]) -> bytes:
    """A tar of these entries, the same bytes each time."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for entry in entries:
            info = tarfile.TarInfo(entry.name)
            info.mode = entry.mode
            if entry.data is None:
                info.type, info.mode = tarfile.DIRTYPE, entry.mode | 0o111
                tar.addfile(info)
            elif isinstance(entry.data, str):
                info.type, info.linkname, info.mode = tarfile.SYMTYPE, entry.data, 0o777
                tar.addfile(info)
            else:
                info.size = len(entry.data)
                tar.addfile(info, io.BytesIO(entry.data))
    return buffer.getvalue()


def busybox_layer() -> bytes:
    """The root filesystem of the machine's static busybox, as a tar."""
    folders = ("bin", "dev", "etc", "proc", "root", "sys", "tmp", "var")
    return tar_of(
        [
            *(File(f"{name}/", None, 0o755 if name != "tmp" else 0o1777) for name in folders),
            File("bin/busybox", BUSYBOX.read_bytes(), 0o755),
            *(File(f"bin/{name}", "busybox") for name in APPLETS),
            File("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000:user:/tmp:/bin/sh\n"),
            File("etc/group", b"root:x:0:\nuser:x:1000:\nextra:x:2000:user\n"),
            File("etc/hostname", b"busybox\n"),
        ]
    )


def text_layer(name: str, text: str) -> bytes:
    """A layer of one file."""
    return tar_of([File(name, text.encode())])


@dataclass(frozen=True)
class SmallImage:
    """An image in memory: its target's descriptor and every blob by digest."""

    target: Json
    blobs: Mapping[str, bytes] = field(repr=False)
    manifests: Sequence[Json] = ()

    @property
    def digest(self) -> str:
        """The digest that names it."""
        return self.target["digest"]

    def document(self, digest: str = "") -> Json:
        """A manifest, index or configuration of it."""
        return json.loads(self.blobs[digest or self.digest])

    @property
    def layers(self) -> list[str]:
        """The layers' digests, bottom first; of the first manifest in an index."""
        document = self.document()
        if "manifests" in document:
            document = self.document(document["manifests"][0]["digest"])
        return [layer["digest"] for layer in document["layers"]]


def make_image(
    layers: Sequence[bytes] | None = None,
    *,
    config: Json | None = None,
    architecture: str = ARCHITECTURE,
    compress: bool = True,
) -> SmallImage:
    """An OCI image of these tars; of busybox by default."""
    tars = [busybox_layer()] if layers is None else layers
    blobs: dict[str, bytes] = {}

    def add(data: bytes, media_type: str) -> Json:
        blobs[digest_of(data)] = data
        return {"mediaType": media_type, "digest": digest_of(data), "size": len(data)}

    settings = {"Cmd": ["sh"], "Env": ["PATH=/bin"]} if config is None else config
    document = {
        "os": "linux",
        "architecture": architecture,
        "config": settings,
        "rootfs": {"type": "layers", "diff_ids": [digest_of(tar) for tar in tars]},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": add(_json(document), CONFIG),
        "layers": [
            add(gzip.compress(tar, 6, mtime=0), LAYER) if compress else add(tar, LAYER.removesuffix("+gzip"))
            for tar in tars
        ],
    }
    return SmallImage(add(_json(manifest), MANIFEST), blobs)


def make_index(images: Mapping[str, SmallImage], *more: Json) -> SmallImage:
    """An index of images by platform ("linux/arm64"); ``more`` are further entries as they are."""
    entries: list[Json] = []
    blobs: dict[str, bytes] = {}
    for name, image in images.items():
        system, architecture, *variant = name.split("/")
        platform = {"os": system, "architecture": architecture} | ({"variant": variant[0]} if variant else {})
        entries.append(image.target | {"platform": platform})
        blobs |= image.blobs
    data = _json({"schemaVersion": 2, "mediaType": INDEX, "manifests": [*entries, *more]})
    blobs[digest_of(data)] = data
    return SmallImage({"mediaType": INDEX, "digest": digest_of(data), "size": len(data)}, blobs)


def save_archive(path: Path, *names: str, image: SmallImage | None = None) -> Path:
    """Write an OCI archive that names its image as containerd does; the path again."""
    image = image or make_image()
    entries = [
        image.target
        | {
            "annotations": {
                "io.containerd.image.name": name,
                "org.opencontainers.image.ref.name": name.rpartition(":")[2],
            }
        }
        for name in names
    ]
    path.write_bytes(layout_tar(image, entries or [image.target]))
    return path


def layout_tar(image: SmallImage, entries: Sequence[Json]) -> bytes:
    """An OCI layout with these entries in its index, as a tar."""
    index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": list(entries)}
    return tar_of(
        [
            File("oci-layout", b'{"imageLayoutVersion":"1.0.0"}'),
            File("index.json", _json(index)),
            *(File(f"blobs/{digest.replace(':', '/')}", data) for digest, data in image.blobs.items()),
        ]
    )


def save_docker_archive(path: Path, *names: str, layers: Sequence[bytes] | None = None) -> Path:
    """Write an archive as ``docker save`` did before it wrote OCI layouts; the path again."""
    tars = [busybox_layer()] if layers is None else layers
    config = _json(
        {
            "os": "linux",
            "architecture": ARCHITECTURE,
            "config": {"Cmd": ["sh"], "Env": ["PATH=/bin"]},
            "rootfs": {"type": "layers", "diff_ids": [digest_of(tar) for tar in tars]},
        }
    )
    config_name = f"{hashlib.sha256(config).hexdigest()}.json"
    paths = [f"{number:064x}/layer.tar" for number in range(len(tars))]
    manifest = [{"Config": config_name, "RepoTags": list(names) or None, "Layers": paths}]
    path.write_bytes(
        tar_of(
            [
                *(File(name, tar) for name, tar in zip(paths, tars, strict=True)),
                File(config_name, config),
                File("manifest.json", _json(manifest)),
            ]
        )
    )
    return path


def write_layout(folder: Path, tag: str, image: SmallImage | None = None) -> Path:
    """Write an OCI layout directory, as ``skopeo copy oci:FOLDER:TAG`` reads it; the path again."""
    image = image or make_image()
    entry = image.target | {"annotations": {"org.opencontainers.image.ref.name": tag}}
    with tarfile.open(fileobj=io.BytesIO(layout_tar(image, [entry]))) as tar:
        for member in tar:
            target = folder / member.name
            target.parent.mkdir(parents=True, exist_ok=True)
            source = tar.extractfile(member)
            assert source is not None
            target.write_bytes(source.read())
    return folder


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), sort_keys=True).encode()
