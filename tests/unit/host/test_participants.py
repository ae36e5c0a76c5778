"""Functions that are called along the way."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import anyio
import pytest

from orlopd.core.spec_changes import SpecChange
from orlopd.plugin.errors import Internal, PermissionDenied
from orlopd.plugin.values import Container, Descriptor, Event, now
from tests.support.plugins import STORE, plugin

TARGET = Descriptor("application/json", "sha256:" + "0" * 64, 1)


async def test_participants_run_in_turn_sync_or_async_with_the_arguments_they_name(opened: Any) -> None:
    async def slow(spec: dict[str, Any], namespace: str) -> None:
        await anyio.sleep(0.01)
        spec.setdefault("by", []).append(f"slow in {namespace}")

    def quick(spec: dict[str, Any]) -> None:
        spec.setdefault("by", []).append("quick")

    # pluggy calls the one that registered last first.
    plugins = [
        plugin(name="one", orlop_adjust_spec=quick, orlop_info=lambda: {"one": "1"}),
        plugin(name="two", orlop_adjust_spec=slow, orlop_info=lambda: {"two": "2"}),
    ]
    async with opened(STORE, *plugins) as (_, parts):
        spec: dict[str, Any] = {}
        changed = await parts.hooks.adjust_spec("ns", Container("c", "runc"), spec)
        assert changed == [SpecChange("two", "/by", "add"), SpecChange("one", "/by/1", "add")]
        assert spec["by"] == ["slow in ns", "quick"]
        assert await parts.hooks.info() == {"one": "1", "two": "2"}


async def test_a_participant_that_has_a_say_stops_what_was_under_way(opened: Any) -> None:
    def refuse(name: str) -> None:
        if name == "bad":
            raise PermissionDenied("not signed")
        raise ValueError("broken verifier")

    async with opened(STORE, plugin(name="verifier", orlop_check_image=refuse)) as (_, parts):
        with pytest.raises(PermissionDenied, match="not signed"):
            await parts.hooks.check_image("ns", "bad", TARGET)
        with pytest.raises(Internal, match="plugin verifier failed: ValueError: broken verifier"):
            await parts.hooks.check_image("ns", "other", TARGET)


async def test_a_participant_that_only_watches_cannot_break_anything(
    opened: Any, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[str] = []

    def broken(event: Event) -> None:
        raise ValueError("bad watcher")

    def good(event: Event) -> None:
        seen.append(event.topic)

    def warn() -> Iterable[str]:
        return ["the moon is full"]

    def no_info() -> Iterable[str]:
        raise ValueError("no info")

    plugins = [
        plugin(name="good", orlop_event=good, orlop_warnings=warn),
        plugin(name="broken", orlop_event=broken, orlop_info=no_info, orlop_warnings=no_info),
    ]
    async with opened(STORE, *plugins) as (_, parts):
        await parts.hooks.event(Event(now(), "ns", "/tasks/exit", "containerd.events.TaskExit"))
        assert seen == ["/tasks/exit"]
        assert await parts.hooks.info() == {}
        assert await parts.hooks.warnings() == ["the moon is full"]
    assert "plugin broken: orlop_event failed on /tasks/exit" in caplog.text
