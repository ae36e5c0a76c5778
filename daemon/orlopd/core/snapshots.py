"""Snapshots as each namespace sees them, over snapshotters that know no namespaces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from orlopd.plugin.errors import InvalidArgument, NotFound
from orlopd.plugin.snapshots import Snapshotter

from .db import Database
from .events import EventBus
from .gc import Collector
from .parts import Catalog
from .snapshotter import NamespacedSnapshotter

__all__ = ["NamespacedSnapshotter", "Snapshots"]


class Snapshots:
    """The snapshotters of the daemon, each by its name."""

    def __init__(
        self,
        db: Database,
        snapshotters: Catalog[Snapshotter],
        events: EventBus,
        gc: Collector,
        *,
        default: str = "",
    ) -> None:
        """:param default: the snapshotter that is meant where none is named"""
        self._snapshotters = snapshotters
        self._default = default
        self._named: Mapping[str, NamespacedSnapshotter] = {
            name: NamespacedSnapshotter(name, backend, db, events, gc)
            for name, backend in snapshotters.items()
        }

    @property
    def names(self) -> Sequence[str]:
        """The names of all snapshotters, aliases apart."""
        return tuple(self._named)

    def for_name(self, name: str) -> NamespacedSnapshotter:
        """The snapshotter of that name or alias; "" is the default one.

        :raises InvalidArgument: there is none; the code is containerd's
        """
        name = name or self._default
        if not name:
            raise InvalidArgument("snapshotter argument missing: invalid argument")
        found = self._named.get(self._snapshotters.canonical(name))
        if found is None:
            raise InvalidArgument(
                f"snapshotter not loaded: {name}: invalid argument",
                reason="SNAPSHOTTER_NOT_LOADED",
                resource=f"snapshotter {name}",
                hint=self._why_not(name),
            )
        return found

    def _why_not(self, name: str) -> str:
        try:
            self._snapshotters.require(name)
        except NotFound as error:
            return error.message
        return ""

    async def recover(self) -> None:
        """Finish or undo the commits that an earlier daemon left half done, and forget what a crash of the
        machine took. Call before anything else."""
        for snapshotter in self._named.values():
            await snapshotter.recover()
