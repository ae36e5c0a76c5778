"""Writing a layout directory, so that it is whole at any time, also after a power cut. All of it blocks.

What is reached through links is not written.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from orlopd.plugin.errors import InvalidArgument
from orlopd.plugin.values import Descriptor

from .oci import LIMIT, REF, document

_LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'
_INDEX = "application/vnd.oci.image.index.v1+json"
_PART = ".part"
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class Part:
    """A file that comes to be under its name when it is finished."""

    def __init__(self, folder: int, name: str) -> None:
        self._folder = folder
        self._name = name
        self._beside = f".{name[:32]}.{secrets.token_hex(4)}{_PART}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        self._file = os.open(self._beside, flags, 0o644, dir_fd=folder)

    def write(self, data: bytes) -> None:
        """Add to it."""
        view = memoryview(data)
        while view:
            view = view[os.write(self._file, view) :]

    def finish(self) -> None:
        """Give it its name."""
        os.fsync(self._file)
        os.replace(self._beside, self._name, src_dir_fd=self._folder, dst_dir_fd=self._folder)
        os.fsync(self._folder)

    def close(self) -> None:
        """Let go of it; what is not finished is gone."""
        os.close(self._file)
        with suppress(FileNotFoundError):
            os.unlink(self._beside, dir_fd=self._folder)


class LayoutFolder:
    """A layout directory, made where there is none.

    :raises InvalidArgument: something else is there
    :raises OSError: it cannot be made or opened
    """

    def __init__(self, path: str) -> None:
        self._path = path
        with suppress(FileExistsError):
            Path(path).mkdir(mode=0o755)
        self._folder = os.open(path, _FOLDER)
        self._blobs: dict[str, int] = {}
        self._opening = threading.Lock()
        try:
            with self._locked():
                self._mark()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let go of it."""
        for each in (self._folder, *self._blobs.values()):
            os.close(each)

    def has(self, descriptor: Descriptor) -> bool:
        """Whether a blob is there."""
        algorithm, _, value = descriptor.digest.partition(":")
        try:
            found = os.stat(value, dir_fd=self._of(algorithm), follow_symlinks=False)
        except FileNotFoundError:
            return False
        return found.st_size == descriptor.size

    def begin(self, descriptor: Descriptor) -> Part:
        """A blob to write."""
        algorithm, _, value = descriptor.digest.partition(":")
        return Part(self._of(algorithm), value)

    def enter(self, descriptor: Descriptor, name: str) -> bool:
        """Have the index list a manifest or index. What had the name, if that is not empty, loses its entry.

        :returns: whether it was not so before
        """
        with self._locked():
            index = document(self._path, "index.json", self._read("index.json") or b"{}")
            listed: Any = index.get("manifests", [])
            if not isinstance(listed, list):
                raise InvalidArgument(
                    f"{self._path}: its index lists no manifests", reason="MALFORMED_ARCHIVE"
                )
            entry: dict[str, Any] = {
                "mediaType": descriptor.media_type,
                "digest": descriptor.digest,
                "size": descriptor.size,
                **({"annotations": {REF: name}} if name else {}),
            }
            kept = [each for each in listed if not _is_for(each, descriptor.digest, name)]
            if entry in listed and len(kept) == len(listed) - 1:
                return False
            changed = {"mediaType": _INDEX, **index, "schemaVersion": 2, "manifests": [*kept, entry]}
            self._replace("index.json", json.dumps(changed, separators=(",", ":")).encode())
        return True

    def _mark(self) -> None:
        """Have it say that it is a layout, before anything else is there: a push can break off."""
        if self._read("oci-layout") is not None:
            return
        if any(not each.endswith(_PART) for each in os.listdir(self._folder)):  # noqa: PTH208 - a descriptor
            raise InvalidArgument(
                f"{self._path} is no OCI layout, and not empty: nothing is put there",
                reason="MALFORMED_ARCHIVE",
                resource=f"file {self._path}",
            )
        self._replace("oci-layout", _LAYOUT)

    def _of(self, algorithm: str) -> int:
        with self._opening:
            if algorithm not in self._blobs:
                blobs = _inside(self._folder, "blobs")
                try:
                    self._blobs[algorithm] = _inside(blobs, algorithm)
                finally:
                    os.close(blobs)
            return self._blobs[algorithm]

    def _read(self, name: str) -> bytes | None:
        try:
            file = os.open(
                name, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._folder
            )
        except FileNotFoundError:
            return None
        try:
            return os.pread(file, LIMIT + 1, 0)
        finally:
            os.close(file)

    def _replace(self, name: str, data: bytes) -> None:
        part = Part(self._folder, name)
        try:
            part.write(data)
            part.finish()
        finally:
            part.close()

    @contextmanager
    def _locked(self) -> Generator[None]:
        """Pushes at once, each with a descriptor of its own, are not to lose each other's entries."""
        fcntl.flock(self._folder, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._folder, fcntl.LOCK_UN)


def _inside(folder: int, name: str) -> int:
    with suppress(FileExistsError):
        os.mkdir(name, 0o755, dir_fd=folder)
    return os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=folder)


def _is_for(entry: Any, digest: str, name: str) -> bool:
    if not isinstance(entry, dict):
        return False
    annotations = entry.get("annotations")
    called = annotations.get(REF, "") if isinstance(annotations, dict) else ""
    return called == name if name else not called and entry.get("digest") == digest
