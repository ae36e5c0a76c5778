"""What an operator may set for foreign shims."""

from __future__ import annotations

from pydantic import Field

from orlopd.plugin import Config


class ShimConfig(Config):
    """Section ``[plugins.runtime.shim]``."""

    binary: str = Field(
        default="", description="The shim's name or path for every such runtime; found by the name if empty."
    )
    start_deadline: float = Field(
        default=30.0, gt=0, description="Seconds that a shim's program may take to start its shim."
    )
