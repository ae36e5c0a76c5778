"""What a check says."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Finding:
    """Something wrong. ``repaired`` says what was done about it, "" for nothing; ``hint`` what can be."""

    code: str
    namespace: str
    object: str
    message: str
    repaired: str = ""
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a check is."""

    stage: str
    blobs: int
    blobs_total: int
    bytes: int
    bytes_total: int


@dataclass(frozen=True, slots=True)
class Summary:
    """What a check came to."""

    findings: int
    repaired: int
    blobs: int
    bytes: int
    snapshots: int


Report = Finding | Progress | Summary


@dataclass(slots=True)
class Totals:
    """What a check has counted so far."""

    findings: int = 0
    repaired: int = 0
    blobs: int = 0
    blobs_total: int = 0
    bytes: int = 0
    bytes_total: int = 0
    snapshots: int = 0

    def progress(self, stage: str) -> Progress:
        """How far it is."""
        return Progress(stage, self.blobs, self.blobs_total, self.bytes, self.bytes_total)

    def summary(self) -> Summary:
        """What it came to."""
        return Summary(self.findings, self.repaired, self.blobs, self.bytes, self.snapshots)


class Places(Protocol):
    """Somebody who knows of folders and mounts beside the stores."""

    def check(self, *, repair: bool) -> AsyncIterator[Finding | None]:
        """Findings; None now and then where there is nothing to say."""
        ...
