"""Registers the OCI runtimes."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from orlopd.plugin import Provider, Runtime, hookimpl

from .config import OciConfig
from .probe import probe
from .runtime import OciRuntime


@hookimpl
def orlop_runtimes() -> Iterable[Provider[Runtime]]:
    """runc, and crun."""
    for name in ("runc", "crun"):
        yield Provider(
            f"io.containerd.{name}.v2",
            partial(OciRuntime.open, name),
            config=OciConfig,
            probe=partial(probe, name),
            aliases=(name,),
        )
