"""What a blob's progress says: states at once, bytes now and then, and how fast they move."""

from __future__ import annotations

import time

import pytest

from orlopd.core.progress import BlobKind, BlobProgress, BlobReport, BlobState, PullEvent
from orlopd.plugin.values import Descriptor

DIGEST = f"sha256:{7:064x}"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, to be set."""
    at = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: at[0])
    return at


def test_bytes_are_told_ten_times_a_second_with_the_rate_of_late(clock: list[float]) -> None:
    told: list[PullEvent] = []
    report = BlobReport(told.append, Descriptor("layer", DIGEST, 1_000_000), BlobKind.LAYER)
    report.state(BlobState.WAITING, 0)
    report.state(BlobState.FETCHING, 0)
    for step in range(1, 101):
        clock[0] += 0.0625
        # 800 bytes a second, and ten times as many in the second half.
        report.state(BlobState.FETCHING, 50 * step if step <= 50 else 2500 + 500 * (step - 50))
    blobs = [event for event in told if isinstance(event, BlobProgress)]
    rates = [event.rate for event in blobs if event.state is BlobState.FETCHING]
    assert len(rates) == 51
    assert rates[0] == 0
    assert rates[20] == 800
    assert rates[-1] == 8000
    report.state(BlobState.UNPACKING, 0)
    report.state(BlobState.UNPACKED)
    assert [event.rate for event in told[-2:] if isinstance(event, BlobProgress)] == [0, 0]
