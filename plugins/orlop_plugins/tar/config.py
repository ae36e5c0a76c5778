"""The config of differs that unpack."""

from __future__ import annotations

import os

from pydantic import Field

from orlopd.plugin import Config

from .limits import Limits


class UnpackConfig(Config):
    """``[plugins.differ.walking]``, and of other differs that read layers as it does."""

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

    def limits(self) -> Limits:
        """What one layer may ask for."""
        return Limits(entries=self.max_entries, size=self.max_size, ratio=self.max_ratio)
