"""The host: what becomes of plugins that fit, do not fit, break, or need one another."""

from __future__ import annotations

import stat
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import pytest

from orlopd.config import Config, ConfigError, Loaded, load
from orlopd.core.parts import Parts, PartStatus
from orlopd.core.spec_changes import SpecChange
from orlopd.host import Host, HostError, Plugin
from orlopd.plugin import (
    CONTENT,
    DIFFER,
    RUNTIME,
    SNAPSHOTTER,
    Context,
    Kind,
    Provider,
    Requirement,
    hookimpl,
)
from orlopd.plugin import Config as Section
from orlopd.plugin.errors import FailedPrecondition, Internal, NotFound, PermissionDenied, Skip
from orlopd.plugin.values import Container, Descriptor, Event, now

HOOKS: dict[str, str] = {
    CONTENT.short: "orlop_content_stores",
    SNAPSHOTTER.short: "orlop_snapshotters",
    DIFFER.short: "orlop_differs",
    RUNTIME.short: "orlop_runtimes",
}


class Part:
    """A part that remembers what it was given."""

    def __init__(self, context: Context) -> None:
        self.context = context


def provider(id: str, open: Callable[[Context], Any] = Part, **options: Any) -> Provider[Any]:
    return Provider(id, open, **options)


def plugin(*offers: tuple[Kind[Any], Provider[Any]], name: str = "test", **hooks: Any) -> Plugin:
    """A plugin that offers parts and has other hooks."""
    by_hook: dict[str, list[Provider[Any]]] = {}
    for kind, offered in offers:
        by_hook.setdefault(HOOKS[kind.short], []).append(offered)
    functions = {hook: hookimpl(lambda given=given: given) for hook, given in by_hook.items()}
    functions.update({hook: hookimpl(function) for hook, function in hooks.items()})
    return Plugin(name, SimpleNamespace(**functions), f"{name} 1.0")


STORE = plugin((CONTENT, provider("content")), name="store")


@pytest.fixture
def opened(tmp_path: Path):
    """Opens a host over plugins and a config."""

    @asynccontextmanager
    async def open_host(*plugins: Plugin, config: str = "") -> AsyncIterator[tuple[Host, Parts]]:
        file = tmp_path / "config.toml"
        file.write_text(
            f'root = "{tmp_path}/r"\nstate = "/tmp/x"\nplugin_dirs = ["{tmp_path}/drop"]\n{config}'
        )
        loaded = load(file)
        # The state folder must be short, which pytest's are not.
        short = loaded.config.model_copy(update={"state": Path(state)})
        host = Host(Loaded(short, file, loaded.text), plugins, installed=False)
        async with host.open() as parts:
            yield host, parts

    import tempfile

    with tempfile.TemporaryDirectory(dir="/tmp") as state:
        yield open_host


def statuses(parts: Parts) -> dict[str, tuple[PartStatus, str]]:
    return {info.name: (info.status, info.reason) for info in parts.plugins}


OK = (PartStatus.OK, "")


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
        with anyio.fail_after(5):
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
    with anyio.fail_after(5):
        async with opened(one, STORE, config="shutdown_timeout = 0.1\n"):
            pass
    assert closed == ["c", "b", "a"]


async def test_disabled_and_required_plugins(opened: Any) -> None:
    def broken(context: Context) -> Part:
        raise ValueError("bad day")

    one = plugin((SNAPSHOTTER, provider("a", aliases=("alias",))), (SNAPSHOTTER, provider("b", broken)))
    async with opened(one, STORE, config='disabled_plugins = ["snapshotter.a"]\n') as (_, parts):
        assert statuses(parts)["snapshotter.a"] == (PartStatus.SKIPPED, "disabled by the config")
    async with opened(one, STORE, config='required_plugins = ["snapshotter.alias"]\n'):
        pass
    with pytest.raises(
        HostError, match=r"^the required plugin snapshotter\.b is failed: ValueError: bad day$"
    ):
        async with opened(one, STORE, config='required_plugins = ["snapshotter.b"]\n'):
            pass


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            'required_plugins = ["snapshotter.overlays"]\n',
            (
                'line 4: key "required_plugins": no plugin offers "snapshotter.overlays"; '
                'did you mean "snapshotter.overlay"?'
            ),
        ),
        (
            "[plugins.snapshoter.overlay]\n",
            (
                'line 4: section [plugins.snapshoter.overlay]: unknown kind of plugin "snapshoter"; '
                'did you mean "snapshotter"?'
            ),
        ),
        (
            "[plugins.snapshotter.overlai]\n",
            (
                'line 4: section [plugins.snapshotter.overlai]: no plugin offers "snapshotter.overlai"; '
                'did you mean "snapshotter.overlay"?'
            ),
        ),
        (
            "[plugins.snapshotter.overlay]\n\nspeeed = 1\n",
            'line 6: section [plugins.snapshotter.overlay]: unknown key "speeed"; did you mean "speed"?',
        ),
        (
            '[plugins.snapshotter.overlay]\nspeed = "x"\n',
            (
                'line 5: section [plugins.snapshotter.overlay]: key "speed": input should be a valid '
                "integer, unable to parse string as an integer, not 'x'"
            ),
        ),
    ],
)
async def test_wrong_names_in_the_config(opened: Any, tmp_path: Path, config: str, message: str) -> None:
    class Keys(Section):
        speed: int = 1

    one = plugin((SNAPSHOTTER, provider("overlay", config=Keys)))
    with pytest.raises(ConfigError) as caught:
        async with opened(one, STORE, config=config):
            pass
    assert str(caught.value) == f"{tmp_path}/config.toml: {message}"


async def test_without_a_content_store_nothing_starts(opened: Any) -> None:
    with pytest.raises(HostError, match="there is no content store"):
        async with opened():
            pass


async def test_drop_ins_are_loaded_and_broken_ones_reported(opened: Any, tmp_path: Path) -> None:
    folder = tmp_path / "drop"
    folder.mkdir()
    (folder / "good.py").write_text(
        "from orlopd.plugin import Provider, hookimpl\n"
        "@hookimpl\n"
        "def orlop_snapshotters():\n"
        "    yield Provider('good', lambda context: object())\n"
    )
    (folder / "syntax.py").write_text("def (\n")
    (folder / "import.py").write_text("import a_module_that_is_not_there\n")
    (folder / "exits.py").write_text("raise SystemExit(3)\n")
    (folder / "empty.py").write_text("")
    (folder / "typo.py").write_text(
        "from orlopd.plugin import hookimpl\n@hookimpl\ndef orlop_snapshoters():\n    return []\n"
    )
    (folder / "wrong.py").write_text(
        "from orlopd.plugin import hookimpl\n@hookimpl\ndef orlop_differs():\n    return [1]\n"
    )
    (folder / "_private.py").write_text("raise Exception\n")
    (folder / "notes.txt").write_text("nothing to see")
    async with opened(STORE) as (_, parts):
        found = statuses(parts)
        origins = {info.name: info.origin for info in parts.plugins}
    assert found.pop("plugin.syntax")[1].startswith("cannot be loaded: SyntaxError: ")
    assert found == {
        "content.content": OK,
        "snapshotter.good": OK,
        "plugin.import": (
            PartStatus.FAILED,
            "cannot be loaded: No module named 'a_module_that_is_not_there'",
        ),
        "plugin.exits": (PartStatus.FAILED, "cannot be loaded: SystemExit: 3"),
        "plugin.empty": (PartStatus.FAILED, "no function in it is marked with @hookimpl"),
        "plugin.typo": (
            PartStatus.FAILED,
            'there is no hook "orlop_snapshoters"; did you mean "orlop_snapshotters"?',
        ),
        "plugin.wrong": (PartStatus.FAILED, "orlop_differs gave int, not Provider"),
    }
    assert origins["snapshotter.good"] == str(folder / "good.py")


async def test_while_a_plugin_cannot_be_loaded_its_section_is_no_error(opened: Any, tmp_path: Path) -> None:
    (tmp_path / "drop").mkdir()
    (tmp_path / "drop" / "zfs.py").write_text("import a_module_that_is_not_there\n")
    async with opened(STORE, config="[plugins.snapshotter.zfs]\npool = 'tank'\n") as (_, parts):
        assert statuses(parts)["plugin.zfs"][0] is PartStatus.FAILED
    async with opened(STORE, config='disabled_plugins = ["plugin.zfs"]\n') as (_, parts):
        assert statuses(parts)["plugin.zfs"] == (PartStatus.SKIPPED, "disabled by the config")


async def test_differs_come_in_the_configs_order(opened: Any) -> None:
    one = plugin(*((DIFFER, provider(name)) for name in "abc"))
    async with opened(one, STORE, config='differs = ["c", "b"]\n') as (_, parts):
        assert [part.context.root.name for part in parts.differs] == ["c", "b", "a"]


def refuse(context: Context) -> None:
    raise Skip("no pool")


async def test_the_default_falls_to_another_only_when_nobody_chose(opened: Any) -> None:
    one = plugin((SNAPSHOTTER, provider("vfs", aliases=("native",))))
    async with opened(one, STORE) as (host, parts):
        assert host.default(SNAPSHOTTER) == "vfs"
        assert parts.snapshotters["native"] is parts.snapshotters["vfs"]
        assert parts.snapshotters.canonical("native") == "vfs"
    async with opened(one, STORE, config='snapshotter = "native"\n') as (host, _):
        assert host.default(SNAPSHOTTER) == "vfs"
    other = plugin((SNAPSHOTTER, provider("zfs", probe=refuse)), name="other")
    async with opened(one, other, STORE, config='snapshotter = "zfs"\n') as (host, parts):
        assert host.default(SNAPSHOTTER) == "zfs"
        assert parts.snapshotters.absence("zfs") == "snapshotter zfs is not available: no pool"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            'snapshotter = "vsf"',
            'key "snapshotter": no plugin offers a snapshotter "vsf"; did you mean "vfs"?',
        ),
        ('runtime = "rnc"', 'key "runtime": no plugin offers a runtime "rnc"; did you mean "runc"?'),
        (
            'content = "conten"',
            'key "content": no plugin offers a content store "conten"; did you mean "content"?',
        ),
        ('differs = ["tar", "tarr"]', 'key "differs": no plugin offers a differ "tarr"; did you mean "tar"?'),
        ('runtime = "zzz"', 'key "runtime": no plugin offers a runtime "zzz" (there are: long.runc, runc)'),
        ('resolvers = ["nope"]', 'key "resolvers": no plugin offers a resolver "nope"'),
    ],
)
async def test_a_choice_that_nothing_offers_is_refused(
    opened: Any, tmp_path: Path, config: str, message: str
) -> None:
    one = plugin(
        (SNAPSHOTTER, provider("vfs")),
        (RUNTIME, provider("long.runc", aliases=("runc",))),
        (DIFFER, provider("tar")),
    )
    with pytest.raises(ConfigError) as caught:
        async with opened(one, STORE, config=f"{config}\n"):
            pass
    assert str(caught.value) == f"{tmp_path}/config.toml: line 4: {message}"


async def test_a_choice_that_a_broken_plugin_may_have_offered_is_no_error(
    opened: Any, tmp_path: Path
) -> None:
    (tmp_path / "drop").mkdir()
    (tmp_path / "drop" / "zfs.py").write_text("import a_module_that_is_not_there\n")
    one = plugin((SNAPSHOTTER, provider("vfs")))
    async with opened(one, STORE, config='snapshotter = "zfs"\n') as (host, _):
        assert host.default(SNAPSHOTTER) == "zfs"


async def test_a_state_folder_that_is_too_long_stops_the_start(tmp_path: Path) -> None:
    config = Config(root=tmp_path / "r", state=Path("/" + "s" * 80), plugin_dirs=[])
    with pytest.raises(HostError, match="too long for unix sockets"):
        async with Host(Loaded(config), [STORE], installed=False).open():
            pass


# --- Participants ------------------------------------------------------------------------------------

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
