"""Registers the tar differ."""

from __future__ import annotations

from collections.abc import Iterable

from orlopd.plugin import Context, Differ, Provider, hookimpl

from .config import UnpackConfig
from .differ import TarDiffer
from .pool import WorkerPool


async def _open(context: Context) -> Differ:
    config: UnpackConfig = context.config
    scratch = context.state / "scratch"
    scratch.mkdir(mode=0o700, exist_ok=True)
    pool = WorkerPool(config.workers, context.log)
    await pool.start()
    return TarDiffer(pool, scratch, config.limits())


@hookimpl
def orlop_differs() -> Iterable[Provider[Differ]]:
    """Offer the differ for tar layers; containerd's word for it is walking."""
    yield Provider("walking", open=_open, config=UnpackConfig)
