"""Registers the content store."""

from __future__ import annotations

from collections.abc import Iterable

from orlopd.plugin import ContentStore, Context, Provider, hookimpl

from .store import LocalStore


async def _open(context: Context) -> ContentStore:
    return await LocalStore.at(context.root)


@hookimpl
def orlop_content_stores() -> Iterable[Provider[ContentStore]]:
    """Offer the store of local files."""
    yield Provider("content", open=_open)
