"""Single parts as containerd's proxy plugins."""

from __future__ import annotations

from typing import Any, cast

from orlopd.core.content import Content
from orlopd.core.diffs import Diffs
from orlopd.core.served import NoContent, ServedContent, ServedSnapshotter
from orlopd.plugin import CONTENT, DIFFER, SNAPSHOTTER, ContentStore
from orlopd.plugin.provider import Kind
from orlopd.plugin.service import Service

from .containerd.content import ContentService
from .containerd.diff import DiffService
from .containerd.snapshots import SnapshotsService
from .scope import engine_scope_of

KINDS: tuple[Kind[Any], ...] = (SNAPSHOTTER, CONTENT, DIFFER)
"""What can be served."""


def service_of(kind: Kind[Any], part: Any, content: ContentStore | None = None) -> Service:
    """The service that serves ``part``. A call without a namespace is as good as one with: the collector of a
    containerd makes them.

    :param content: for a differ: where the layers are
    """
    if kind == SNAPSHOTTER:
        return SnapshotsService.over(cast("Any", ServedSnapshotter(part)), engine_scope_of)
    if kind == CONTENT:
        return ContentService.over(cast("Content", ServedContent(part)), engine_scope_of)
    layers = NoContent() if content is None else ServedContent(content)
    return DiffService.over(Diffs(cast("Content", layers), [part]), engine_scope_of)
