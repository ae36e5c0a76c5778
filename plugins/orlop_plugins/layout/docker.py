"""Archives of ``docker save``: a manifest is made for what they list."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from orlopd.plugin.errors import InvalidArgument
from orlopd.plugin.references import parse_reference
from orlopd.plugin.values import Descriptor, sha256

from .oci import LIMIT
from .resolver import Opened, choose
from .tar import Range, TarFile, open_tar

_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
_CONFIG = "application/vnd.docker.container.image.v1+json"
_LAYER = "application/vnd.docker.image.rootfs.diff.tar"
_KINDS = ((b"\x1f\x8b", ".gzip"), (b"\x28\xb5\x2f\xfd", ".zstd"))
_MOST_LAYERS = 1024
_PIECE = 1 << 20


class _Blobs:
    """The archive's files by digest, and the manifest made of them."""

    def __init__(self, tar: TarFile) -> None:
        self._tar = tar
        self._ranges: dict[str, Range] = {}
        self._made: dict[str, bytes] = {}

    def size(self, digest: str) -> int | None:
        if digest in self._made:
            return len(self._made[digest])
        return self._ranges[digest].size if digest in self._ranges else None

    def read(self, digest: str, offset: int, size: int) -> bytes:
        if digest in self._made:
            return self._made[digest][offset : offset + size]
        return self._tar.read(self._ranges[digest], offset, size)

    def add(self, media_type: str, digest: str, where: Range) -> Descriptor:
        self._ranges[digest] = where
        return Descriptor(media_type, digest, where.size)

    def make(self, media_type: str, data: bytes) -> Descriptor:
        digest = sha256(data)
        self._made[digest] = data
        return Descriptor(media_type, digest, len(data))


@contextmanager
def open_docker_archive(path: str, wanted: str) -> Generator[Opened]:
    """Open an archive of ``docker save``. See :data:`.resolver.Open`."""
    with open_tar(path) as tar:
        entries = _json(tar, "manifest.json")
        if not isinstance(entries, list) or not all(isinstance(each, dict) for each in entries):
            raise tar.malformed("its manifest.json is no list of images")
        names = [_names(tar, each) for each in entries]
        number = choose(path, _spelled(wanted), ((", ".join(each) or "unnamed", each) for each in names))
        blobs = _Blobs(tar)
        target = _manifest(tar, blobs, entries[number])
        asked = _spelled(wanted)
        name = asked if asked in names[number] else next(iter(names[number]), "")
        yield Opened(blobs, target, name)


def _names(tar: TarFile, entry: dict[str, Any]) -> tuple[str, ...]:
    return tuple(parse_reference(tag).name for tag in _texts(tar, entry.get("RepoTags")))


def _spelled(wanted: str) -> str:
    """What was asked for as names are spelled in full."""
    if wanted:
        with suppress(InvalidArgument):
            return parse_reference(wanted).name
    return wanted


def _manifest(tar: TarFile, blobs: _Blobs, entry: dict[str, Any]) -> Descriptor:
    where = _file(tar, entry.get("Config"))
    if where.size > LIMIT:
        raise tar.malformed("its configuration is too large")
    data = tar.read(where, 0, where.size)
    config = blobs.add(_CONFIG, sha256(data), where)
    diff_ids = _diff_ids(tar, data)
    paths = _texts(tar, entry.get("Layers"))
    if len(paths) != len(diff_ids) or len(paths) > _MOST_LAYERS:
        raise tar.malformed(f"it has {len(paths)} layers and {len(diff_ids)} diff ids")
    layers: list[Descriptor] = []
    for path, diff_id in zip(paths, diff_ids, strict=True):
        layer = _file(tar, path)
        head = tar.read(layer, 0, 4)
        suffix = next((word for magic, word in _KINDS if head.startswith(magic)), "")
        # The digest of a plain layer is its diff id: whoever fetches it will see whether it is.
        digest = _hash(tar, layer) if suffix else diff_id
        layers.append(blobs.add(_LAYER + suffix, digest, layer))
    manifest = {
        "schemaVersion": 2,
        "mediaType": _MANIFEST,
        "config": _object(config),
        "layers": [_object(layer) for layer in layers],
    }
    return blobs.make(_MANIFEST, json.dumps(manifest, sort_keys=True, separators=(",", ":")).encode())


def _diff_ids(tar: TarFile, data: bytes) -> Sequence[str]:
    config: Any = None
    with suppress(ValueError, RecursionError):
        config = json.loads(data)
    rootfs = config.get("rootfs") if isinstance(config, dict) else None
    if not isinstance(rootfs, dict):
        raise tar.malformed("its configuration has no rootfs")
    return _texts(tar, rootfs.get("diff_ids"))


def _json(tar: TarFile, name: str) -> Any:
    data = tar.read_all(name, LIMIT)
    if data is None:
        raise tar.malformed(f"there is no {name} in it")
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        raise tar.malformed(f"its {name} is not JSON") from None


def _texts(tar: TarFile, value: Any) -> list[str]:
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise tar.malformed("a list in its documents has something else than strings")
    return value


def _file(tar: TarFile, name: Any) -> Range:
    found = tar.find(name) if isinstance(name, str) else None
    if found is None:
        raise tar.malformed(f"its manifest names {str(name)[:120]!r}, which is not in it")
    return found


def _hash(tar: TarFile, where: Range) -> str:
    hashed, at = hashlib.sha256(), 0
    while at < where.size and (piece := tar.read(where, at, _PIECE)):
        hashed.update(piece)
        at += len(piece)
    return f"sha256:{hashed.hexdigest()}"


def _object(descriptor: Descriptor) -> dict[str, Any]:
    return {"mediaType": descriptor.media_type, "digest": descriptor.digest, "size": descriptor.size}
