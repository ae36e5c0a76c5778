"""Every test of the kits leaves nothing behind."""

from __future__ import annotations

import pytest

from orlopd.testing.leftovers import Leftovers, leftovers

__all__ = ["leftovers"]


@pytest.fixture(autouse=True)
def nothing_left_behind(leftovers: Leftovers) -> Leftovers:
    return leftovers
