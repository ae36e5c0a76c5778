"""The check of what lies beside the stores: containers' folders, and mounts in the daemon's own folders."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path

import anyio
from anyio import to_thread

from orlopd.plugin.mount import mount_points, unmount

from .checks import Finding
from .core import Core
from .scope import Scope

_MOMENT = 1.0
_Key = tuple[str, str]


class ContainerPlaces:
    """Folders of containers that are not recorded, mounts of tasks that are not there."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._folders = core.engine.context.folders

    async def check(self, *, repair: bool) -> AsyncIterator[Finding | None]:
        """Findings. What may just be in the making is looked at twice."""
        folders, mounts = await self._look()
        yield None
        if not folders and not mounts:
            return
        await anyio.sleep(_MOMENT)
        again, mounts_again = await self._look()
        for namespace, container in sorted(folders & again):
            if repair:
                await to_thread.run_sync(self._folders.remove, namespace, container)
            yield Finding(
                *("FOLDER_UNKNOWN", namespace, str(self._folders.of(namespace, container))),
                "it is the folder of a container that is not recorded",
                *("deleted" if repair else "", "" if repair else "mend it with --repair"),
            )
        for point in sorted(mounts & mounts_again, reverse=True):
            if repair:
                await to_thread.run_sync(lambda point=point: unmount(point, detach=True))
            yield Finding(
                *("MOUNT_UNKNOWN", "", f"mount {point}", "it belongs to no task"),
                *("unmounted" if repair else "", "" if repair else "mend it with --repair"),
            )

    async def _look(self) -> tuple[set[_Key], set[str]]:
        # The places first: what is made meanwhile has its record by the time that is read.
        folders = await to_thread.run_sync(lambda: set(self._folders.all()))
        # Nothing for a task is ever mounted in the root folder: a disk that is there is the operator's.
        settings = self._core.settings
        state, root, own = map(os.path.realpath, (settings.state, settings.root, self._core.mounts.folder))
        points = await to_thread.run_sync(lambda: set(mount_points(state)))
        known: set[_Key] = set()
        for namespace in await self._core.namespaces.list():
            scope = Scope(namespace.name)
            known |= {(scope.namespace, each.id) for each in await self._core.containers.list(scope)}
            known |= {(scope.namespace, each.id) for each in await self._core.tasks.list(scope)}
        unknown = {
            point
            for point in points - {state}
            if not any(Path(point).is_relative_to(each) for each in (own, root))
            and not any(pair in known for pair in pairwise(Path(point).parts))
        }
        return {key for key in folders if key not in known and not key[0].startswith(".")}, unknown
