"""Checkpoints as content: what CRIU wrote as one blob, and back into a folder for a restore.

ROOT/checkpoints/NAMESPACE/ID      what a task is restored from, until it has started or is deleted
ROOT/checkpoints/.HEX              what is being written
"""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncGenerator, Collection
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

import anyio
from anyio import to_thread

from orlopd.plugin.errors import FailedPrecondition, InvalidArgument
from orlopd.plugin.files import remove_tree
from orlopd.plugin.runtime import Task
from orlopd.plugin.values import Descriptor, Mount, TypedBytes

from .content import Content
from .diffs import Diffs
from .identifiers import quoted
from .scope import Scope
from .shield import shielded

log = logging.getLogger("orlopd.checkpoints")

CRIU = "application/vnd.containerd.container.criu.checkpoint.criu.tar"
CONFIG = "application/vnd.containerd.container.checkpoint.config.v1+proto"
_TAR = "application/vnd.oci.image.layer.v1.tar"


class Checkpoints:
    """Takes checkpoints of tasks into the content store, and lays them out for the runtime."""

    def __init__(self, content: Content, diffs: Diffs, folder: Path) -> None:
        """:param folder: of this class's own, on a disk with room for a container's memory"""
        self._content = content
        self._diffs = diffs
        self._folder = folder
        self._laid: set[tuple[str, str]] = set()
        self._spared: set[tuple[str, str]] = set()
        self._lock = anyio.Lock()

    async def save(
        self, scope: Scope, task: Task, options: TypedBytes | None, config: bytes
    ) -> tuple[Descriptor, Descriptor]:
        """Checkpoint a task into the content store.

        :param options: the runtime's
        :param config: the container's spec as a client wants to read it again
        :returns: the checkpoint and the config. Nothing but the scope's lease keeps them
        :raises OrlopError: as :meth:`orlopd.plugin.runtime.Task.checkpoint`, and as writing content does
        """
        folder = self._folder / f".{os.urandom(8).hex()}"
        try:
            async with self._lock:
                await to_thread.run_sync(_make, folder)
            await task.checkpoint(str(folder), options)
            tar = await self._diffs.diff(scope, (), [_bind(folder)], media_type=_TAR)
        finally:
            with shielded():
                async with self._lock:  # a folder that is left empty goes too, and somebody may be making one
                    await to_thread.run_sync(_remove, folder)
        info = await self._content.add_blob(scope, f"checkpoint-config-{os.urandom(8).hex()}", config)
        return replace(tar, media_type=CRIU), Descriptor(CONFIG, info.digest, info.size)

    @asynccontextmanager
    async def laid_out(self, scope: Scope, id: str, checkpoint: Descriptor) -> AsyncGenerator[str]:
        """Unpack a checkpoint for a task that is being made; the folder stays if it was.

        :raises InvalidArgument: it is no checkpoint, or a hostile one
        :raises NotFound: the namespace does not have the blob
        :raises FailedPrecondition: a task that could not be found again may need the folder
        """
        if checkpoint.media_type != CRIU:
            raise InvalidArgument(
                f"unsupported checkpoint type {quoted(checkpoint.media_type)}: invalid argument",
                hint=f"a task is restored from {CRIU}",
            )
        if (scope.namespace, id) in self._spared:
            raise FailedPrecondition(
                f"task {id} may be waiting for its start from another checkpoint: its runtime failed when "
                "this daemon started",
                reason="TASK_NOT_RECOVERED",
                resource=f"task {id}",
                hint="the daemon's log says why; start the daemon again when the runtime works",
            )
        folder = self._folder / scope.namespace / id
        try:
            async with self._lock:
                self._laid.add((scope.namespace, id))
                await to_thread.run_sync(_make_anew, folder)
            async with await self._content.open(scope, checkpoint.digest) as blob:
                if checkpoint.size and blob.size != checkpoint.size:
                    raise FailedPrecondition(
                        f"checkpoint {checkpoint.digest} has {blob.size} bytes, "
                        f"its descriptor says {checkpoint.size}",
                        reason="SIZE_MISMATCH",
                    )
                await self._diffs.unpack(blob, [_bind(folder)])
            yield str(folder)
        except BaseException:
            with shielded():
                await self.forget(scope.namespace, id)
            raise

    async def forget(self, namespace: str, id: str) -> None:
        """Remove what a task was to be restored from, if there is anything."""
        async with self._lock:
            if (namespace, id) in self._laid:
                self._laid.discard((namespace, id))
                await to_thread.run_sync(_remove, self._folder / namespace / id)

    async def found(self) -> Collection[tuple[str, str]]:
        """For which tasks something is laid out, by namespace and id."""
        return set(await to_thread.run_sync(self._on_disk))

    async def sweep(
        self, kept: Collection[tuple[str, str]], spared: Collection[tuple[str, str]] = ()
    ) -> None:
        """Remove what an earlier daemon left, except for tasks.

        :param kept: the tasks that are there, by namespace and id
        :param spared: those of which nobody knows; what is laid out for them is not touched again
        """

        def sweep() -> None:
            for folder in list(self._folder.glob(".*")):
                _remove(folder)
            for key, folder in self._on_disk().items():
                if key in kept:
                    self._laid.add(key)
                elif key in spared:
                    self._spared.add(key)
                else:
                    _remove(folder)

        await to_thread.run_sync(sweep)

    def _on_disk(self) -> dict[tuple[str, str], Path]:
        return {(folder.parent.name, folder.name): folder for folder in self._folder.glob("[!.]*/*")}


def _make(folder: Path) -> None:
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.mkdir(mode=0o700)


def _make_anew(folder: Path) -> None:
    remove_tree(folder)
    folder.parent.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    _make(folder)


def _remove(folder: Path) -> None:
    """What cannot be removed is swept at the next start."""
    try:
        if folder.exists():
            remove_tree(folder)
    except OSError as error:
        log.warning("cannot remove the checkpoint in %s: %s", folder, error)
    with suppress(OSError):
        folder.parent.rmdir()


def _bind(folder: Path) -> Mount:
    return Mount("bind", str(folder), options=("rbind", "rw"))
