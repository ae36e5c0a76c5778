"""How much of anything an archive may ask for."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on one archive. Sizes are in bytes.

    ``ratio`` counts from ``ratio_from`` uncompressed bytes on, so that a small layer of zeros is no bomb.
    """

    entries: int = 1_000_000
    size: int = 256 << 30
    ratio: int = 200
    ratio_from: int = 1 << 30
    header: int = 1 << 20
    sparse_pieces: int = 100_000
