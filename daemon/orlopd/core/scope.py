"""On whose behalf a call is made. Passed first to everything in the core that touches objects."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Scope:
    """The namespace that a call works in, and the lease that keeps what the call makes ("" for none)."""

    namespace: str
    lease: str = ""
