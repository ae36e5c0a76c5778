"""Parts open in order, get what they need, and close; what does not suit or breaks is told."""

from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from orlopd.config import Config, Loaded
from orlopd.core.parts import PartStatus
from orlopd.host import Host, HostError
from orlopd.plugin import CONTENT, DIFFER, RUNTIME, SNAPSHOTTER, Context, Requirement
from orlopd.plugin import Config as Section
from orlopd.plugin.errors import FailedPrecondition, NotFound, Skip
from tests.support.plugins import OK, STORE, Part, plugin, provider, statuses


async def test_parts_come_in_order_of_what_they_require(opened: Any) -> None:
    order: list[str] = []

    def making(name: str) -> Callable[[Context], Part]:
        return lambda context: order.append(name) or Part(context)

    late = provider(
        "late", making("late"), requires=[Requirement(SNAPSHOTTER, "early"), Requirement(CONTENT)]
    )
    one = plugin((DIFFER, late), (SNAPSHOTTER, provider("early", making("early"))))
    async with opened(one, STORE) as (_, parts):
        assert order == ["early", "late"]
        found = parts.differs[0].context
        assert found.get(SNAPSHOTTER, "early") is parts.snapshotters["early"]
        assert found.get(CONTENT) is parts.content
        with pytest.raises(FailedPrecondition):
            found.get(RUNTIME)


async def test_a_part_has_folders_config_logger_and_tasks(opened: Any) -> None:
    class Keys(Section):
        word: str = "none"

    async def open_it(context: Context) -> Part:
        return Part(context)

    one = plugin((SNAPSHOTTER, provider("mine", open_it, config=Keys)))
    async with opened(one, STORE, config='[plugins.snapshotter.mine]\nword = "given"\n') as (host, parts):
        context = parts.snapshotters["mine"].context
        assert context.config.word == "given"
        assert stat.S_IMODE(context.root.stat().st_mode) == 0o700
        assert stat.S_IMODE(context.state.stat().st_mode) == 0o711
        assert context.root.parts[-2:] == context.state.parts[-2:] == ("snapshotter", "mine")
        assert context.log.name == "orlop.snapshotter.mine"
        done = anyio.Event()

        async def work() -> None:
            done.set()

        context.tasks.start_soon(work)
        with anyio.fail_after(30):
            await done.wait()
        assert host.sections["snapshotter"]["mine"].model_dump() == {"word": "given"}


async def test_a_failing_background_task_fails_alone(opened: Any, caplog: pytest.LogCaptureFixture) -> None:
    async with opened(plugin((SNAPSHOTTER, provider("mine"))), STORE) as (_, parts):
        tasks = parts.snapshotters["mine"].context.tasks

        async def fail() -> None:
            raise RuntimeError("boom")

        async def fail_later(*, task_status: anyio.abc.TaskStatus[int]) -> None:
            task_status.started(7)
            raise RuntimeError("later")

        async def fail_at_once(*, task_status: anyio.abc.TaskStatus[int]) -> None:
            raise RuntimeError("at once")

        tasks.start_soon(fail)
        assert await tasks.start(fail_later) == 7
        with pytest.raises(RuntimeError, match="at once"):
            await tasks.start(fail_at_once)
        await anyio.sleep(0.05)
    assert caplog.text.count("background task") == 2


async def test_what_does_not_suit_is_skipped_and_what_breaks_has_failed(opened: Any) -> None:
    def probe(context: Context) -> None:
        raise Skip("this kernel has\nno overlayfs")

    def broken(context: Context) -> Part:
        raise ValueError("bad day")

    async def stuck(context: Context) -> Part:
        await anyio.sleep_forever()
        raise AssertionError

    one = plugin(
        (SNAPSHOTTER, provider("a", probe=probe)),
        (SNAPSHOTTER, provider("b", broken, aliases=("bee",))),
        (SNAPSHOTTER, provider("c", stuck)),
        (SNAPSHOTTER, provider("d")),
        (SNAPSHOTTER, provider("../e")),
    )
    async with opened(one, STORE, config="start_timeout = 0.1\n") as (_, parts):
        assert statuses(parts) == {
            "content.content": OK,
            "snapshotter.a": (PartStatus.SKIPPED, "this kernel has no overlayfs"),
            "snapshotter.b": (PartStatus.FAILED, "ValueError: bad day"),
            "snapshotter.c": (PartStatus.FAILED, "did not open within 0.1 seconds"),
            "snapshotter.d": OK,
            "snapshotter.../e": (PartStatus.FAILED, "'../e' cannot be a plugin's id"),
        }
        assert list(parts.snapshotters) == ["d"]
        with pytest.raises(NotFound, match="snapshotter bee is not available: ValueError: bad day"):
            parts.snapshotters.require("bee")
        with pytest.raises(NotFound, match="snapshotter 'zfs' not found; available: d"):
            parts.snapshotters.require("zfs")


async def test_requirements_that_are_not_met_are_reported(opened: Any) -> None:
    def skip(context: Context) -> None:
        raise Skip("not here")

    def broken(context: Context) -> Part:
        raise NotFound("no disk")

    one = plugin(
        (SNAPSHOTTER, provider("skipped", probe=skip)),
        (SNAPSHOTTER, provider("failed", broken)),
        (DIFFER, provider("a", requires=[Requirement(RUNTIME)])),
        (DIFFER, provider("b", requires=[Requirement(SNAPSHOTTER, "skipped")])),
        (DIFFER, provider("c", requires=[Requirement(SNAPSHOTTER, "failed")])),
        (DIFFER, provider("d", requires=[Requirement(SNAPSHOTTER, "unheard")])),
    )
    async with opened(one, STORE) as (_, parts):
        found = statuses(parts)
    assert found["differ.a"] == (PartStatus.FAILED, "requires runtime, which no plugin offers")
    assert found["differ.b"] == (
        PartStatus.SKIPPED,
        "requires snapshotter.skipped, which is skipped: not here",
    )
    assert found["differ.c"] == (PartStatus.FAILED, "requires snapshotter.failed, which is failed: no disk")
    assert found["differ.d"] == (PartStatus.FAILED, "requires snapshotter.unheard, which no plugin offers")


async def test_cycles_are_reported_and_the_others_open(opened: Any) -> None:
    one = plugin(
        (DIFFER, provider("a", requires=[Requirement(RUNTIME, "b")])),
        (RUNTIME, provider("b", requires=[Requirement(DIFFER, "a")])),
        (SNAPSHOTTER, provider("c")),
        (SNAPSHOTTER, provider("needy", requires=[Requirement(RUNTIME, "b")])),
    )
    async with opened(one, STORE) as (_, parts):
        found = statuses(parts)
    assert found["differ.a"] == (PartStatus.FAILED, "it requires itself: differ.a -> runtime.b -> differ.a")
    assert found["runtime.b"] == (PartStatus.FAILED, "it requires itself: runtime.b -> differ.a -> runtime.b")
    assert found["snapshotter.needy"][0] is PartStatus.FAILED
    assert found["snapshotter.c"] == OK


async def test_an_id_offered_twice_is_reported(opened: Any) -> None:
    first = plugin((SNAPSHOTTER, provider("same")), name="first")
    second = plugin((SNAPSHOTTER, provider("same")), name="second")
    async with opened(first, second, STORE) as (_, parts):
        twice = [info for info in parts.plugins if info.name == "snapshotter.same"]
    assert [(i.origin, i.status, i.reason) for i in sorted(twice, key=lambda i: i.origin)] == [
        ("first 1.0", PartStatus.OK, ""),
        ("second 1.0", PartStatus.FAILED, "first 1.0 offers snapshotter.same already"),
    ]


async def test_parts_close_in_reverse_and_a_slow_one_is_not_waited_for(opened: Any) -> None:
    closed: list[str] = []

    class Closing(Part):
        async def aclose(self) -> None:
            closed.append(self.context.root.name)
            if self.context.root.name == "b":
                raise RuntimeError("cannot")
            if self.context.root.name == "c":
                await anyio.sleep_forever()

    one = plugin(*((SNAPSHOTTER, provider(name, Closing)) for name in "abc"))
    with anyio.fail_after(30):
        async with opened(one, STORE, config="shutdown_timeout = 0.1\n"):
            pass
    assert closed == ["c", "b", "a"]


async def test_a_state_folder_that_is_too_long_stops_the_start(tmp_path: Path) -> None:
    config = Config(root=tmp_path / "r", state=Path("/" + "s" * 80), plugin_dirs=[])
    with pytest.raises(HostError, match="too long for unix sockets"):
        async with Host(Loaded(config), [STORE], installed=False).open():
            pass
