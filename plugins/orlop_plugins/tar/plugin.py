"""Registers the tar differ."""

from __future__ import annotations

import os
from collections.abc import Iterable

from pydantic import Field

from orlopd.plugin import Config, Context, Differ, Provider, hookimpl

from .differ import TarDiffer
from .limits import Limits
from .pool import WorkerPool


class TarConfig(Config):
    """``[plugins.differ.walking]``"""

    workers: int = Field(
        default_factory=lambda: max(2, min(os.cpu_count() or 2, 8)),
        ge=1,
        description="How many layers are worked on at a time.",
    )
    max_entries: int = Field(
        default=1_000_000,
        ge=1,
        description="The most files, directories and links that one layer may have.",
    )
    max_size: int = Field(
        default=256 << 30, ge=1, description="The most bytes that one layer may have uncompressed."
    )
    max_ratio: int = Field(
        default=200,
        ge=1,
        description="How many times its own size a layer may unpack to, once that is more than 1 GiB.",
    )


async def _open(context: Context) -> Differ:
    config: TarConfig = context.config
    scratch = context.state / "scratch"
    scratch.mkdir(mode=0o700, exist_ok=True)
    pool = WorkerPool(config.workers, context.log)
    await pool.start()
    limits = Limits(entries=config.max_entries, size=config.max_size, ratio=config.max_ratio)
    return TarDiffer(pool, scratch, limits)


@hookimpl
def orlop_differs() -> Iterable[Provider[Differ]]:
    """Offer the differ for tar layers; containerd's word for it is walking."""
    yield Provider("walking", open=_open, config=TarConfig)
