"""The image that pulls are measured with: six layers of Debian packages, as OCI layouts in gzip and zstd.

It is made once and kept below ``$ORLOP_BENCH_CACHE``, by default a folder among the temporary files.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import zstandard

from tests.support.images import ARCHITECTURE, CONFIG, INDEX, MANIFEST

MIB = 1 << 20
_VERSION = 2  # of what is made here; another one is made anew
_GZIP = 31
_MEDIA_TYPE = "application/vnd.oci.image.layer.v1.tar+"
_LAYERS: dict[str, Sequence[str]] = {
    "minbase": ("apt", "usr-is-merged", "?priority(required)"),
    "java": ("openjdk-17-jdk-headless",),
    "python": ("python3-dev", "libpython3.11-testsuite"),
    "node": ("nodejs", "npm"),
    "perl": ("perl", "libmodule-install-perl", "libmoose-perl", "libdatetime-perl", "libwww-perl"),
    "gcc": ("gcc", "g++", "gfortran", "gccgo", "gnat", "gdc"),
}
_LEFT_OUT = (
    "usr/share/doc",
    "usr/share/man",
    *(f"usr/share/nodejs/{name}" for name in ("@babel", "@types", "core-js", "core-js-pure", "es-abstract")),
)
"""What would make it many more small files than an image of this size has."""


@dataclass(frozen=True)
class BigImage:
    """Where the layouts are, and how much is in them."""

    folder: Path
    unpacked: int
    gzip: int
    zstd: int
    files: int

    def layout(self, compression: str) -> str:
        """How skopeo names the image with this compression of its layers."""
        return f"oci:{self.folder / compression}:latest"

    def __str__(self) -> str:
        return (
            f"{len(_LAYERS)} layers, {self.files} files, {self.unpacked / MIB:.0f} MiB unpacked, "
            f"{self.gzip / MIB:.0f} MiB gzip, {self.zstd / MIB:.0f} MiB zstd"
        )


def big_image() -> BigImage:
    """The image, made if it is not there."""
    default = Path(tempfile.gettempdir()) / "orlop-bench"
    place = Path(os.environ.get("ORLOP_BENCH_CACHE", default)) / f"image-{_VERSION}"
    if not place.is_dir():
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place.parent, prefix="making-") as making:
            _make(Path(making), place.parent / "apt")
            (Path(making) / "done").rename(place)
    return BigImage(place, **json.loads((place / "sizes.json").read_text()))


def _make(work: Path, archives: Path) -> None:
    print("making the image of Debian packages, which takes some minutes once", flush=True)
    done = work / "done"
    layouts = {name: _Layout(done / name, name) for name in ("gzip", "zstd")}
    packages: list[str] = []
    before: set[str] = set()
    unpacked = files = 0
    for name, more in _LAYERS.items():
        packages += more
        found = _download(archives, packages, work / "status")
        tree = work / name
        tree.mkdir()
        for archive in sorted(found - before):
            subprocess.run(["dpkg-deb", "-x", archives / archive, tree], check=True)
        before |= found
        for path in _LEFT_OUT:
            shutil.rmtree(tree / path, ignore_errors=True)
        unpacked += _pack(tree, list(layouts.values()))
        files += sum(len(names) for _, _, names in os.walk(tree))
        shutil.rmtree(tree)
    sizes = {name: layout.finish() for name, layout in layouts.items()}
    (done / "sizes.json").write_text(json.dumps({**sizes, "unpacked": unpacked, "files": files}))


def _download(folder: Path, packages: Sequence[str], status: Path) -> set[str]:
    """Fetch packages with all that they need, as on a machine without any; the archives' names."""
    (folder / "partial").mkdir(parents=True, exist_ok=True)
    status.touch()
    apt = ["apt-get", "-qq", "--no-install-recommends", "install", *packages]
    apt += [f"-oDir::State::status={status}", f"-oDir::Cache::archives={folder}", "-oAPT::Sandbox::User=root"]
    subprocess.run([*apt, "--download-only"], check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    # What is installed, of all that lies there: "Inst NAME (VERSION SUITE [ARCHITECTURE]) …"
    said = subprocess.run([*apt, "--simulate"], check=True, capture_output=True, text=True)
    wanted = re.findall(r"^Inst (\S+) \((\S+) .*\[(\w+)\]\)", said.stdout, re.MULTILINE)
    names = {f"{name}_{version.replace(':', '%3a')}" for name, version, _ in wanted}
    return {path.name for path in folder.glob("*.deb") if path.name.rpartition("_")[0] in names}


class _Compressor(Protocol):
    def compress(self, data: bytes, /) -> bytes: ...

    def flush(self) -> bytes: ...


class _Layout:
    """An OCI layout that is being written."""

    def __init__(self, folder: Path, compression: str) -> None:
        self._folder = folder
        self._compression = compression
        self._blobs = folder / "blobs" / "sha256"
        self._blobs.mkdir(parents=True)
        self._layers: list[dict[str, Any]] = []
        self._diff_ids: list[str] = []

    def begin(self) -> None:
        """Begin a layer."""
        self._compressor: _Compressor = (
            zlib.compressobj(6, zlib.DEFLATED, _GZIP)
            if self._compression == "gzip"
            else zstandard.ZstdCompressor(level=3).compressobj()
        )
        self._file = (self._folder / "layer").open("wb")
        self._hash = hashlib.sha256()

    def add(self, data: bytes) -> None:
        """Add to the layer."""
        self._write(self._compressor.compress(data))

    def end(self, diff_id: str) -> None:
        """End the layer."""
        self._write(self._compressor.flush())
        self._file.close()
        size, value = self._file_size(), self._hash.hexdigest()
        (self._folder / "layer").rename(self._blobs / value)
        self._layers.append(_descriptor(_MEDIA_TYPE + self._compression, value, size))
        self._diff_ids.append(diff_id)

    def finish(self) -> int:
        """Write what belongs to an image beside its layers; how many bytes these have."""
        config = {
            "os": "linux",
            "architecture": ARCHITECTURE,
            "config": {"Cmd": ["/bin/sh"]},
            "rootfs": {"type": "layers", "diff_ids": self._diff_ids},
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": self._document(config, CONFIG),
            "layers": self._layers,
        }
        entry = self._document(manifest, MANIFEST)
        entry["annotations"] = {"org.opencontainers.image.ref.name": "latest"}
        index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry]}
        (self._folder / "index.json").write_text(json.dumps(index))
        (self._folder / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
        return sum(layer["size"] for layer in self._layers)

    def _document(self, document: dict[str, Any], media_type: str) -> dict[str, Any]:
        data = json.dumps(document).encode()
        value = hashlib.sha256(data).hexdigest()
        (self._blobs / value).write_bytes(data)
        return _descriptor(media_type, value, len(data))

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._hash.update(data)

    def _file_size(self) -> int:
        return (self._folder / "layer").stat().st_size


def _descriptor(media_type: str, value: str, size: int) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": f"sha256:{value}", "size": size}


def _pack(tree: Path, layouts: Sequence[_Layout]) -> int:
    """Add a tree as a layer to each; its bytes uncompressed."""
    command = ["tar", "--sort=name", "--numeric-owner", "-C", tree, "-cf", "-", "."]
    digest, size = hashlib.sha256(), 0
    for layout in layouts:
        layout.begin()
    with subprocess.Popen(command, stdout=subprocess.PIPE) as tar:
        assert tar.stdout is not None
        while data := tar.stdout.read(MIB):
            digest.update(data)
            size += len(data)
            for layout in layouts:
                layout.add(data)
    if tar.returncode:
        raise RuntimeError(f"tar ended with {tar.returncode}")
    for layout in layouts:
        layout.end(f"sha256:{digest.hexdigest()}")
    return size


if __name__ == "__main__":
    print(big_image())
