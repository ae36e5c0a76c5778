"""Registers the OCI runtimes."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from orlopd.plugin import Provider, Runtime, hookimpl

from .config import OciConfig
from .runtime import OciRuntime


@hookimpl
def orlop_runtimes() -> Iterable[Provider[Runtime]]:
    """runc, and crun."""
    yield Provider(
        "io.containerd.runc.v2", partial(OciRuntime.open, "runc"), config=OciConfig, aliases=("runc",)
    )
    yield Provider(
        "io.containerd.crun.v2", partial(OciRuntime.open, "crun"), config=OciConfig, aliases=("crun",)
    )
