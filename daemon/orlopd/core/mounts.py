"""Mounts that the daemon performs and keeps for clients (containerd.services.mounts.v1).

An activation is a folder below the state folder, with a record and a place for each mount. The record is
there before the first mount and says what is done after the last, so that what a crash left half done is
known and undone at the next start; so is what a reboot has unmounted. An activation that was made under a
lease goes with it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread

from orlopd.plugin.errors import AlreadyExists, InvalidArgument, NotFound, OrlopError, Unimplemented
from orlopd.plugin.files import write_file
from orlopd.plugin.mount import mount as perform
from orlopd.plugin.mount import mount_points, unmount
from orlopd.plugin.mounting import MountHandler
from orlopd.plugin.values import NO_LABELS, Labels, Mount, now

from .filters import FieldPath, in_map, parse
from .identifiers import check_labels, check_name, check_namespace, quoted
from .leases import Leases
from .locks import KeyedLocks
from .masks import select
from .mount_format import PREFIX as FORMAT
from .mount_format import Placed, fill, is_format
from .parts import Catalog
from .scope import Scope
from .shield import shielded

log = logging.getLogger("orlopd.mounts")

_RECORD = "activation.json"
_EVERYBODYS = ("bind", "overlay")
_LEASE_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class ActiveMount:
    """A mount that was performed."""

    mount: Mount
    point: str
    mounted_at: datetime
    data: dict[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True)
class Activation:
    """A stack of mounts: those that the daemon performed, and those that are left to the client."""

    name: str
    active: tuple[ActiveMount, ...] = ()
    system: tuple[Mount, ...] = ()
    labels: Labels = field(default_factory=lambda: NO_LABELS)


@dataclass(frozen=True, slots=True)
class _Record:
    namespace: str
    lease: str
    folder: Path
    activation: Activation
    done: bool = True


class Mounts:
    """The activations of every namespace."""

    def __init__(self, folder: Path, handlers: Catalog[MountHandler], leases: Leases) -> None:
        """:param folder: a folder that a reboot empties, or may"""
        self._folder = folder
        self._handlers = handlers
        self._leases = leases
        self._locks = KeyedLocks()
        self._records: dict[tuple[str, str], _Record] = {}
        self._last = 0

    @property
    def folder(self) -> Path:
        """Where activations are; what is mounted in it is this class's."""
        return self._folder

    async def recover(self) -> None:
        """Take over what an earlier daemon left, and undo what it left half done."""
        for record in await anyio.to_thread.run_sync(self._read_all):
            if record.done and await anyio.to_thread.run_sync(self._is_whole, record):
                self._records[record.namespace, record.activation.name] = record
            else:
                log.info("undoing what is left of the mounts %s", record.activation.name or record.folder)
                await self._try_undo(record)

    async def run(self) -> None:
        """Undo activations whose lease is gone, for ever."""
        while True:
            await anyio.sleep(_LEASE_SECONDS)
            for record in [each for each in self._records.values() if each.lease]:
                if not await self._leases.list(Scope(record.namespace), [f'id=="{record.lease}"']):
                    log.info("the lease %s of the mounts %s is gone", record.lease, record.activation.name)
                    try:
                        await self.deactivate(Scope(record.namespace), record.activation.name)
                    except OrlopError as error:
                        log.warning("%s; will try again", error)

    async def activate(
        self,
        scope: Scope,
        name: str,
        mounts: Sequence[Mount],
        labels: Labels = NO_LABELS,
        *,
        temporary: bool = False,
    ) -> Activation:
        """Perform those mounts that there is a handler for, and all below them. What any client can mount,
        bind mounts and overlays, counts only below others.

        :param temporary: perform all; what is left is a bind mount of the last
        :raises AlreadyExists: the name is taken
        :raises Unimplemented: there is no handler for any of them
        :raises InvalidArgument: a name, a label or a mount is malformed
        :raises OrlopError: a mount did not work; those before it are undone
        """
        check_namespace(scope.namespace)
        check_name(name, "mount name")
        check_labels(labels, "labels")
        count = len(mounts) if temporary else self._handled(mounts)
        if not count:
            raise Unimplemented("none of these mounts has a handler here: not implemented")
        async with self._locks.hold(f"{scope.namespace}/{name}"):
            if (scope.namespace, name) in self._records:
                raise AlreadyExists(f"mount {quoted(name)}: already exists", resource=f"mount {name}")
            if scope.lease and not await self._leases.list(scope, [f'id=="{scope.lease}"']):
                raise NotFound(f"lease {quoted(scope.lease)}: not found", resource=f"lease {scope.lease}")
            begun = Activation(name, labels=dict(labels))
            self._last += 1
            record = _Record(scope.namespace, scope.lease, self._folder / str(self._last), begun, done=False)
            with shielded():
                try:
                    record = await anyio.to_thread.run_sync(
                        self._perform, record, tuple(mounts), count, temporary
                    )
                except BaseException:
                    await self._try_undo(record)
                    raise
            self._records[scope.namespace, name] = record
            return record.activation

    async def deactivate(self, scope: Scope, name: str) -> None:
        """Undo an activation.

        :raises NotFound: there is none of this name
        :raises FailedPrecondition: something is in use; the activation stays
        """
        async with self._locks.hold(f"{scope.namespace}/{name}"):
            record = self._get(scope, name)
            with shielded():
                await anyio.to_thread.run_sync(self._undo, record)
                del self._records[scope.namespace, name]

    async def info(self, scope: Scope, name: str) -> Activation:
        """:raises NotFound: there is none of this name"""
        return self._get(scope, name).activation

    async def update(self, scope: Scope, info: Activation, paths: Sequence[str] = ()) -> Activation:
        """Change the labels: all, or those that ``paths`` name. Raises as :meth:`info`."""
        async with self._locks.hold(f"{scope.namespace}/{info.name}"):
            record = self._get(scope, info.name)
            current, wanted = {"labels": record.activation.labels}, {"labels": info.labels}
            fields = select(f"mount {quoted(info.name)}", paths or ("labels",), current, wanted)
            labels = dict(check_labels(fields["labels"], "labels"))
            record = replace(record, activation=replace(record.activation, labels=labels))
            await anyio.to_thread.run_sync(_write, record)
            self._records[scope.namespace, info.name] = record
            return record.activation

    async def walk(self, scope: Scope, filters: Sequence[str] = ()) -> AsyncIterator[Activation]:
        """Every activation by name; filters know ``name`` and ``labels.KEY``."""
        wanted = parse(filters)
        for (namespace, name), record in sorted(self._records.items()):

            def get_field(
                path: FieldPath, name: str = name, labels: Labels = record.activation.labels
            ) -> str | None:
                match path:
                    case ("name", *_):
                        return name
                    case ("labels", *key):
                        return in_map(tuple(key), labels)
                    case _:
                        return None

            if namespace == scope.namespace and wanted.match(get_field):
                yield record.activation

    def _get(self, scope: Scope, name: str) -> _Record:
        record = self._records.get((scope.namespace, name))
        if record is None:
            raise NotFound(f"mount {quoted(name)}: not found", resource=f"mount {name}")
        return record

    def _handled(self, mounts: Sequence[Mount]) -> int:
        """How many mounts, from the first on, are the daemon's to perform."""
        last = 0
        for number, item in enumerate(mounts):
            bare = item.type.removeprefix(FORMAT)
            if bare in self._handlers and bare not in _EVERYBODYS:
                last = number + 1
            elif is_format(item):
                last = max(last, number)  # what it refers to has to be there
        return last

    # In threads.

    def _perform(self, record: _Record, mounts: tuple[Mount, ...], count: int, temporary: bool) -> _Record:
        record.folder.mkdir(mode=0o700, parents=True)
        _write(record)
        done: list[ActiveMount] = []
        placed: list[Placed] = []
        for number, item in enumerate(mounts[:count]):
            whole = fill(item, placed) if is_format(item) else item
            handler = self._handlers.get(whole.type)
            if handler is None:
                handler = _Plain()
            point = record.folder / f"{number}-{whole.type.replace('/', '_') or 'bind'}"
            data = handler.mount(whole, point)
            done.append(ActiveMount(whole, str(point), now(), dict(data)))
            placed.append(Placed(whole, str(point)))
        system = [fill(item, placed) if is_format(item) else item for item in mounts[count:]]
        if temporary:
            system = [Mount("bind", done[-1].point, ("rbind",))]
        activation = replace(record.activation, active=tuple(done), system=tuple(system))
        record = replace(record, activation=activation, done=True)
        _write(record)
        return record

    def _undo(self, record: _Record) -> None:
        if not record.folder.exists():
            return
        points = [path for path in record.folder.iterdir() if path.name != _RECORD]
        for point in sorted(points, key=lambda path: int(path.name.partition("-")[0]), reverse=True):
            handler = self._handlers.get(point.name.partition("-")[2]) or _Plain()
            handler.unmount(point)
        unmount(record.folder)
        (record.folder / _RECORD).unlink(missing_ok=True)
        record.folder.rmdir()

    async def _try_undo(self, record: _Record) -> None:
        with shielded():
            try:
                await anyio.to_thread.run_sync(self._undo, record)
            except (OrlopError, OSError) as error:
                log.warning("left what remains of mounts in %s for the next start: %s", record.folder, error)

    def _read_all(self) -> list[_Record]:
        self._folder.mkdir(mode=0o711, parents=True, exist_ok=True)
        folders = sorted(int(path.name) for path in self._folder.iterdir() if path.name.isdecimal())
        self._last = max(folders, default=0)
        return [_read(self._folder / str(number)) for number in folders]

    def _is_whole(self, record: _Record) -> bool:
        there = set(mount_points(record.folder))
        points = [Path(each.point) for each in record.activation.active]
        return all(str(point) in there or point.is_symlink() for point in points)


class _Plain:
    """What mount(2) does, for types that nobody else handles."""

    def mount(self, mount: Mount, point: Path) -> dict[str, str]:
        point.mkdir(mode=0o700)
        perform(mount, point)
        return {}

    def unmount(self, point: Path) -> None:
        if point.is_symlink():
            raise InvalidArgument(f"{str(point)!r} is nothing that is mounted")
        unmount(point)
        if point.exists():
            point.rmdir()


def _write(record: _Record) -> None:
    data: dict[str, Any] = asdict(record)
    data["folder"] = str(record.folder)
    write_file(record.folder / _RECORD, json.dumps(data, default=_plain).encode())


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else dict(value)


def _read(folder: Path) -> _Record:
    try:
        data = json.loads((folder / _RECORD).read_bytes())
        activation = data["activation"]
        active = tuple(
            ActiveMount(
                _mount(each["mount"]), each["point"], datetime.fromisoformat(each["mounted_at"]), each["data"]
            )
            for each in activation["active"]
        )
        system = tuple(_mount(each) for each in activation["system"])
        whole = Activation(activation["name"], active, system, activation["labels"])
        return _Record(data["namespace"], data["lease"], folder, whole, done=data["done"])
    except (OSError, ValueError, KeyError, TypeError):
        return _Record("", "", folder, Activation(""), done=False)


def _mount(data: dict[str, Any]) -> Mount:
    return Mount(data["type"], data["source"], tuple(data["options"]), data["target"])
