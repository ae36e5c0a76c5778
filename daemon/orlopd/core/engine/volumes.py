"""Named volumes: directories that outlive the containers they are mounted into.

    ROOT/volumes/NAMESPACE/NAME/

A volume is made, empty, for the first container that names it. Nothing of an image is copied into it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from anyio import to_thread

from orlopd.core.identifiers import check_identifier
from orlopd.core.oci import IdMaps, MountKind, SpecMount
from orlopd.core.scope import Scope
from orlopd.plugin.errors import FailedPrecondition, InvalidArgument, NotFound
from orlopd.plugin.files import remove_tree

from .context import Context
from .record import config_of, name_of

_DOOMED = re.compile(r"\.[0-9a-f]{16}")


@dataclass(frozen=True, slots=True)
class Volume:
    """A volume and the containers, by name, that it is mounted into."""

    name: str
    path: Path
    containers: tuple[str, ...] = ()


class Volumes:
    """The volumes of all namespaces."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def keys(self, scope: Scope, mounts: Sequence[SpecMount]) -> list[str]:
        """The locks to be held from :meth:`bound` until the container that mounts volumes is kept.

        :raises InvalidArgument: what a mount names is no name of a volume
        """
        return [_key(scope, each.source) for each in mounts if each.kind is MountKind.VOLUME]

    def bound(
        self, scope: Scope, mounts: Sequence[SpecMount], maps: IdMaps
    ) -> tuple[tuple[SpecMount, ...], list[Path]]:
        """The mounts with volumes as the directories that they are, and which of those were made for it.

        A volume belongs to the root of the container it is made for. Blocks.
        """
        found: list[SpecMount] = []
        made: list[Path] = []
        for item in mounts:
            if item.kind is not MountKind.VOLUME:
                found.append(item)
                continue
            path = self._folder(scope) / item.source
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with suppress(FileExistsError):
                path.mkdir(mode=0o755)
                made.append(path)
                if maps:
                    os.chown(path, maps.uid(0), maps.gid(0))
            found.append(replace(item, kind=MountKind.BIND, source=str(path)))
        return tuple(found), made

    async def list(self, scope: Scope) -> Sequence[Volume]:
        """A namespace's volumes by name."""
        users = await self._users(scope)

        def look() -> list[Volume]:
            with suppress(FileNotFoundError):
                with os.scandir(self._folder(scope)) as entries:
                    names = sorted(each.name for each in entries if not each.name.startswith("."))
                folder = self._folder(scope)
                return [Volume(name, folder / name, tuple(users.get(name, ()))) for name in names]
            return []

        return await to_thread.run_sync(look)

    async def remove(self, scope: Scope, name: str) -> None:
        """Remove a volume with all that is in it.

        :raises NotFound: there is none of this name
        :raises FailedPrecondition: a container has it
        """
        async with self._context.locks.hold(_key(scope, name)):
            if users := (await self._users(scope)).get(name):
                raise FailedPrecondition(
                    f"volume {name} is mounted into {', '.join(users)}",
                    reason="VOLUME_IN_USE",
                    resource=f"volume {name}",
                    hint=f"remove the container first: orlop rm {users[0]}",
                )
            await to_thread.run_sync(self._remove, scope, name)

    def clean(self) -> None:
        """Finish removals that a crash interrupted. Blocks."""
        for path in self._context.volumes.glob("*/.*"):
            if _DOOMED.fullmatch(path.name):
                remove_tree(path)

    def _remove(self, scope: Scope, name: str) -> None:
        folder = self._folder(scope)
        doomed = folder / f".{os.urandom(8).hex()}"
        try:
            (folder / name).rename(doomed)
        except FileNotFoundError as error:
            raise NotFound(f"there is no volume {name!r}", resource=f"volume {name}") from error
        remove_tree(doomed)
        with suppress(OSError):
            folder.rmdir()

    async def _users(self, scope: Scope) -> dict[str, list[str]]:
        users: dict[str, list[str]] = {}
        for container in await self._context.containers.list(scope):
            config = config_of(container)
            for item in config.spec.mounts if config else ():
                if item.kind is MountKind.VOLUME:
                    users.setdefault(item.source, []).append(name_of(container))
        return users

    def _folder(self, scope: Scope) -> Path:
        return self._context.volumes / scope.namespace


def _key(scope: Scope, name: str) -> str:
    if name.startswith("/"):
        raise InvalidArgument(f"volume {name[:80]!r} is a path: a bind mount takes one")
    return f"{scope.namespace}/volume/{check_identifier(name, 'volume')}"
