"""Registers the runtime of foreign shims."""

from __future__ import annotations

from collections.abc import Iterable

from orlopd.plugin import Provider, Runtime, hookimpl

from .config import ShimConfig
from .program import PATTERN
from .runtime import ShimRuntime


@hookimpl
def orlop_runtimes() -> Iterable[Provider[Runtime]]:
    """Any shim of containerd's, by the runtime's name."""
    yield Provider("shim", ShimRuntime.open, config=ShimConfig, pattern=PATTERN)
