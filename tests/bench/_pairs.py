"""Pairs of measurements, one of ours and one of a peer's in turn, and what to print of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable


def compare(name: str, ours: Callable[[], object], peer: Callable[[], object], rounds: int = 9) -> None:
    """Run both in turn after one warm-up each, and print medians, ratio and the raw figures in seconds."""
    ours(), peer()
    figures: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for side, work in zip(figures, (ours, peer), strict=True):
            begun = time.perf_counter()
            work()
            side.append(time.perf_counter() - begun)
    mine, theirs = map(statistics.median, figures)
    print(f"{name}: ratio {mine / theirs:.2f}  (orlop {mine * 1000:.0f} ms, peer {theirs * 1000:.0f} ms)")
    for label, side in zip(("orlop", "peer"), figures, strict=True):
        print(f"    {label}: {' '.join(f'{figure:.3f}' for figure in side)}")
