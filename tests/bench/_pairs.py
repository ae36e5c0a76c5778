"""Pairs of measurements, one of ours and one of a peer's in turn, and what to print of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

from tests.support.ctr import ctr

ROUNDS = 9


def compare(
    name: str,
    ours: Callable[[], float | None],
    peer: Callable[[], float | None],
    rounds: int = ROUNDS,
    amount: float = 0,
    unit: str = "",
) -> float:
    """Run both in turn after one warm-up each, and print medians, ratio and the raw figures in seconds.

    :param ours: a measurement; it may say how many seconds it took, to leave its preparations out
    :param amount: how much it moves or makes, in ``unit``, to print the rates as well
    :returns: our median divided by the peer's
    """
    ours()
    peer()
    figures: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for side, work in zip(figures, (ours, peer), strict=True):
            begun = time.perf_counter()
            said = work()
            side.append(time.perf_counter() - begun if said is None else said)
    mine, theirs = map(statistics.median, figures)
    rates = f"; {amount / mine:.0f} and {amount / theirs:.0f} {unit}/s" if amount else ""
    print(
        f"{name}: ratio {mine / theirs:.2f}  (orlop {mine * 1000:.0f} ms, peer {theirs * 1000:.0f} ms{rates})"
    )
    for label, side in zip(("orlop", "peer"), figures, strict=True):
        print(f"    {label}: {' '.join(f'{figure:.3f}' for figure in side)}", flush=True)
    return mine / theirs


def must_ctr(address: str, *words: str) -> str:
    """What a ``ctr`` that succeeded wrote."""
    said = ctr(address, *words)
    if said.code:
        raise RuntimeError(f"ctr {' '.join(words)} at {address}: {said.err}")
    return said.out
