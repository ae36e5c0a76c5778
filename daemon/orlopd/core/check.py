"""The check of all that is stored: what the metadata says against what is on the disk, in every namespace.

Nothing is held up: rows are read page by page, blobs hashed in threads, and whatever looks wrong is looked
at again a moment later, since everybody goes on working meanwhile. Mending never removes data that something
sound needs: a blob that is not what its digest says goes to the quarantine, and what it referred to stays
referred to until it is fetched again.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

from orlopd.plugin.content import ContentStore
from orlopd.plugin.errors import OrlopError
from orlopd.plugin.snapshots import Snapshotter

from .check_blobs import BlobCheck
from .check_data import IngestCheck, SnapshotCheck
from .check_rows import check_rows
from .checks import Finding, Places, Progress, Report, Summary, Totals
from .db import Database
from .gc import Collector
from .parts import Catalog

__all__ = ["Checker", "Finding", "Places", "Progress", "Report", "Summary"]

QUARANTINE = "quarantine"
_PROGRESS = 0.5


class Checker:
    """Checks, and mends. One check at a time is enough, several do no harm."""

    def __init__(
        self, db: Database, content: ContentStore, snapshotters: Catalog[Snapshotter], gc: Collector
    ) -> None:
        self._db = db
        self._content = content
        self._snapshotters = snapshotters
        self._gc = gc

    async def check(
        self, *, repair: bool = False, quick: bool = False, places: Places | None = None
    ) -> AsyncIterator[Report]:
        """Findings as they are found, progress between them, a summary at the end.

        :param repair: mend what can be mended without losing anything
        :param quick: do not hash blobs
        :param places: folders and mounts beside the stores, to be looked at too
        """
        totals = Totals()
        quarantine = self._db.path.parent / QUARANTINE
        told = time.monotonic()
        # The oldest things first: a row that is mended may be what keeps a blob.
        for stage, reports in (
            ("rows", check_rows(self._db, repair=repair)),
            ("content", BlobCheck(self._db, self._content, self._gc, quarantine, totals).run(repair, quick)),
            ("ingests", IngestCheck(self._db, self._content).run(repair)),
            ("snapshots", SnapshotCheck(self._db, self._snapshotters, self._gc, totals).run(repair)),
            ("folders", _nothing() if places is None else places.check(repair=repair)),
        ):
            yield totals.progress(stage)
            try:
                async for item in reports:
                    if isinstance(item, Finding):
                        totals.findings += 1
                        totals.repaired += bool(item.repaired)
                        yield item
                    if time.monotonic() - told > _PROGRESS:
                        told = time.monotonic()
                        yield totals.progress(stage)
            except OrlopError as error:
                totals.findings += 1
                yield Finding(
                    "STORE_FAILED", "", stage, f"cannot be checked further: {error}", hint=error.hint
                )
        if totals.repaired:
            self._gc.schedule()
        yield totals.summary()


async def _nothing() -> AsyncIterator[Finding]:
    for _ in ():
        yield _
