"""Registers the OCI runtimes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial

import anyio.to_thread

from orlopd.plugin import Provider, Runtime, hookimpl

from .advisories import of_installed
from .config import OciConfig
from .probe import probe
from .runtime import OciRuntime

_BY_PATH = r"/(?:[^/]+/)*(?!containerd-shim-)[^/]+"
"""The path of an OCI runtime, which is all that is to be known of runsc and kin; shims are another's."""


@hookimpl
async def orlop_warnings() -> Sequence[str]:
    """Runtimes with published weaknesses."""
    return await anyio.to_thread.run_sync(of_installed)


@hookimpl
def orlop_runtimes() -> Iterable[Provider[Runtime]]:
    """runc, crun, and by its path any other, which is run as runc is."""
    for name in ("runc", "crun"):
        yield Provider(
            f"io.containerd.{name}.v2",
            partial(OciRuntime.open, name),
            config=OciConfig,
            probe=partial(probe, name),
            aliases=(name,),
            pattern=_BY_PATH if name == "runc" else "",
        )
