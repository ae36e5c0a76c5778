"""Gives containers that ask for no AppArmor profile the default one, where the kernel's AppArmor is on."""

from __future__ import annotations

from typing import Any

from orlopd.plugin import hookimpl

from .profile import NAME, Profile

_profile = Profile()


@hookimpl
async def orlop_adjust_spec(spec: dict[str, Any]) -> None:
    """A spec without a word of AppArmor means the default; one that shall have none says "unconfined"."""
    process = spec.get("process")
    if isinstance(process, dict) and "apparmorProfile" not in process and await _profile.loaded():
        process["apparmorProfile"] = NAME
