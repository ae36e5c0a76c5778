"""What a pull, a push, an import or an unpack tells meanwhile. One callback takes it; it must not block."""

from __future__ import annotations

import enum
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from orlopd.plugin.values import Descriptor

_EVERY = 0.1
_MARKS = 20
"""Of how many reports the rate is: of the last two seconds."""


class BlobKind(enum.Enum):
    """The part a blob plays in an image."""

    INDEX = "index"
    MANIFEST = "manifest"
    CONFIG = "config"
    LAYER = "layer"


class BlobState(enum.Enum):
    """The states of a blob in a pull and in a push, in their order."""

    WAITING = "waiting"
    FETCHING = "fetching"
    FETCHED = "fetched"
    EXISTS = "exists"
    UNPACKING = "unpacking"
    UNPACKED = "unpacked"
    PUSHING = "pushing"
    PUSHED = "pushed"
    MOUNTED = "mounted"


@dataclass(frozen=True, slots=True)
class Resolved:
    """A name became a digest. The first event of a pull; of a push, what the name is to be."""

    name: str
    digest: str
    media_type: str


@dataclass(frozen=True, slots=True)
class BlobProgress:
    """How far a blob has come, in bytes of its compressed form; replaces the one before of its digest.

    :param rate: bytes a second of late; 0 where nothing moves
    """

    digest: str
    kind: BlobKind
    state: BlobState
    current: int
    total: int
    rate: int = 0


PullEvent = Resolved | BlobProgress
Report = Callable[[PullEvent], None]


def silent(event: PullEvent) -> None:
    """A report to nobody."""


class BlobReport:
    """Reports on one blob: each change of state, and bytes ten times a second at most."""

    def __init__(self, report: Report, descriptor: Descriptor, kind: BlobKind) -> None:
        self._report = report
        self._descriptor = descriptor
        self._kind = kind
        self._state: BlobState | None = None
        self._told = 0.0
        self._marks: deque[tuple[float, int]] = deque(maxlen=_MARKS)

    def state(self, state: BlobState, current: int | None = None) -> None:
        """Tell a state; ``current`` is everything when None."""
        size = self._descriptor.size
        done = size if current is None else min(current, size)
        at = time.monotonic()
        if state == self._state and at - self._told < _EVERY:
            return
        if state != self._state:
            self._marks.clear()
        self._state, self._told = state, at
        self._marks.append((at, done))
        self._report(BlobProgress(self._descriptor.digest, self._kind, state, done, size, self._rate()))

    def _rate(self) -> int:
        (began, first), (ended, last) = self._marks[0], self._marks[-1]
        return round((last - first) / (ended - began)) if ended > began and last > first else 0
