"""OCI image layouts, as directories and as archives (OCI image-spec, image-layout.md)."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from typing import Any

from orlopd.plugin.errors import InvalidArgument
from orlopd.plugin.values import Descriptor, Platform, check_digest

from .resolver import Opened, Place, choose, full_name
from .tar import TarFile, open_tar

LIMIT = 8 << 20
REF = "org.opencontainers.image.ref.name"
_NAME = "io.containerd.image.name"
_Read = Callable[[str], bytes | None]


class _Directory:
    """Blobs of a layout directory; a link is not followed, wherever it leads."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def size(self, digest: str) -> int | None:
        try:
            with self._open(digest) as file:
                return os.fstat(file).st_size
        except FileNotFoundError:
            return None

    def read(self, digest: str, offset: int, size: int) -> bytes:
        with self._open(digest) as file:
            return os.pread(file, size, offset)

    def document(self, name: str) -> bytes | None:
        try:
            with self._file(os.dup(self._descriptor), name) as file:
                return os.pread(file, LIMIT + 1, 0)
        except FileNotFoundError:
            return None

    @contextmanager
    def _open(self, digest: str) -> Generator[int]:
        algorithm, _, value = check_digest(digest).partition(":")
        at = os.dup(self._descriptor)
        for part in ("blobs", algorithm):
            try:
                following = os.open(
                    part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at
                )
            finally:
                os.close(at)
            at = following
        with self._file(at, value) as file:
            yield file

    @contextmanager
    def _file(self, folder: int, name: str) -> Generator[int]:
        try:
            file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
        finally:
            os.close(folder)
        try:
            if not stat.S_ISREG(os.fstat(file).st_mode):
                raise InvalidArgument(f"{name} in the layout is no file", reason="MALFORMED_ARCHIVE")
            yield file
        finally:
            os.close(file)


class _Archive:
    """Blobs of a layout archive."""

    def __init__(self, tar: TarFile) -> None:
        self._tar = tar

    def size(self, digest: str) -> int | None:
        found = self._tar.find(_path(digest))
        return None if found is None else found.size

    def read(self, digest: str, offset: int, size: int) -> bytes:
        found = self._tar.find(_path(digest))
        return b"" if found is None else self._tar.read(found, offset, size)


@contextmanager
def open_layout(path: str, wanted: str) -> Generator[Opened]:
    """Open a layout directory. See :data:`.resolver.Open`."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        place = _Directory(descriptor)
        yield _find(path, wanted, place, place.document)
    finally:
        os.close(descriptor)


@contextmanager
def open_archive(path: str, wanted: str) -> Generator[Opened]:
    """Open a layout archive. See :data:`.resolver.Open`."""
    with open_tar(path) as tar:
        yield _find(path, wanted, _Archive(tar), lambda name: tar.read_all(name, LIMIT))


def _find(path: str, wanted: str, place: Place, read: _Read) -> Opened:
    layout, index = read("oci-layout"), read("index.json")
    if layout is None or index is None:
        raise _malformed(path, "it has no OCI layout (index.json and oci-layout)")
    version = document(path, "oci-layout", layout).get("imageLayoutVersion")
    if not isinstance(version, str) or not version.startswith("1."):
        raise _malformed(path, f"its layout has version {str(version)[:40]!r}; want 1.0.0")
    entries = document(path, "index.json", index).get("manifests")
    if not isinstance(entries, list):
        raise _malformed(path, "its index lists no manifests")
    found = [descriptor(path, entry) for entry in entries]
    number = choose(path, wanted, ((_label(each), _called(each)) for each in found))
    chosen = found[number]
    # The annotations are the entry's, for naming it here; the image is the bare descriptor.
    target = Descriptor(chosen.media_type, chosen.digest, chosen.size, platform=chosen.platform)
    return Opened(place, target, full_name(chosen.annotations), tuple(found))


def _called(each: Descriptor) -> tuple[str, ...]:
    names = (each.annotations.get(REF, ""), each.annotations.get(_NAME, ""), each.digest)
    return (*names, full_name(each.annotations))


def _label(each: Descriptor) -> str:
    label = each.annotations.get(REF) or each.annotations.get(_NAME) or each.digest
    return "".join(letter for letter in label[:160] if letter.isprintable())


def document(path: str, name: str, data: bytes) -> dict[str, Any]:
    """A JSON object. :raises InvalidArgument: it is none"""
    value: Any = None
    if len(data) <= LIMIT:
        with suppress(ValueError, RecursionError):
            value = json.loads(data)
    if not isinstance(value, dict):
        raise _malformed(path, f"its {name} is no JSON object of at most {LIMIT} bytes")
    return value


def descriptor(path: str, value: Any) -> Descriptor:
    """A descriptor of a document. :raises InvalidArgument: it is malformed"""
    match value:
        case {"mediaType": str() as media_type, "digest": str() as digest, "size": int() as size} if (
            size >= 0
        ):
            annotations = value.get("annotations") or {}
            if isinstance(annotations, dict) and all(isinstance(each, str) for each in annotations.values()):
                platform = _platform(value.get("platform"))
                return Descriptor(media_type, check_digest(digest), size, platform, annotations)
    raise _malformed(path, "a descriptor in it is malformed")


def _platform(value: Any) -> Platform | None:
    match value:
        case {"os": str() as system, "architecture": str() as architecture}:
            variant = value.get("variant")
            return Platform(system, architecture, variant if isinstance(variant, str) else "")
        case _:
            return None


def _path(digest: str) -> str:
    return f"blobs/{check_digest(digest).replace(':', '/')}"


def _malformed(path: str, what: str) -> InvalidArgument:
    return InvalidArgument(f"{path}: {what}", reason="MALFORMED_ARCHIVE")
