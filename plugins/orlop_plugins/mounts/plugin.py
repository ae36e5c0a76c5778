"""Registers the mount handlers."""

from __future__ import annotations

from collections.abc import Iterable

from orlopd.plugin import Provider, hookimpl
from orlopd.plugin.mounting import MountHandler

from .handlers import Erofs, Loop, Plain


@hookimpl
def orlop_mount_handlers() -> Iterable[Provider[MountHandler]]:
    """Offer the types that need no program of their own."""
    yield Provider("bind", lambda _: Plain())
    yield Provider("overlay", lambda _: Plain())
    yield Provider("erofs", lambda _: Erofs())
    yield Provider("loop", lambda _: Loop())
