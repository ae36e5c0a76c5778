"""The core, whole: everything that things mean, made of the opened parts."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Self

from . import platforms
from .parts import PartInfo, Parts, Settings


@dataclass(frozen=True, slots=True)
class Core:
    """What the services call."""

    settings: Settings
    parts: Parts

    @property
    def plugins(self) -> Sequence[PartInfo]:
        """Every part and every broken plugin, in order of kind and id."""
        return self.parts.plugins

    @property
    def architecture(self) -> str:
        """This machine's architecture, as Go spells it."""
        return platforms.current().architecture

    @classmethod
    @asynccontextmanager
    async def open(cls, settings: Settings, parts: Parts) -> AsyncGenerator[Self]:
        """Open the database, recover what an earlier daemon left, and begin the background work."""
        yield cls(settings, parts)
