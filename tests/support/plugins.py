"""Plugins made on the spot, for tests of the host."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from orlopd.core.parts import Parts, PartStatus
from orlopd.host import Plugin
from orlopd.plugin import CONTENT, DIFFER, RUNTIME, SNAPSHOTTER, Context, Kind, Provider, hookimpl

HOOKS: dict[str, str] = {
    CONTENT.short: "orlop_content_stores",
    SNAPSHOTTER.short: "orlop_snapshotters",
    DIFFER.short: "orlop_differs",
    RUNTIME.short: "orlop_runtimes",
}


class Part:
    """A part that remembers what it was given."""

    def __init__(self, context: Context) -> None:
        self.context = context


def provider(id: str, open: Callable[[Context], Any] = Part, **options: Any) -> Provider[Any]:
    return Provider(id, open, **options)


def plugin(*offers: tuple[Kind[Any], Provider[Any]], name: str = "test", **hooks: Any) -> Plugin:
    """A plugin that offers parts and has other hooks."""
    by_hook: dict[str, list[Provider[Any]]] = {}
    for kind, offered in offers:
        by_hook.setdefault(HOOKS[kind.short], []).append(offered)
    functions = {hook: hookimpl(lambda given=given: given) for hook, given in by_hook.items()}
    functions.update({hook: hookimpl(function) for hook, function in hooks.items()})
    return Plugin(name, SimpleNamespace(**functions), f"{name} 1.0")


STORE = plugin((CONTENT, provider("content")), name="store")


def statuses(parts: Parts) -> dict[str, tuple[PartStatus, str]]:
    return {info.name: (info.status, info.reason) for info in parts.plugins}


OK = (PartStatus.OK, "")
