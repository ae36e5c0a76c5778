"""What the config says of plugins: which are off, which must be there, which is the default."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from orlopd.config import ConfigError
from orlopd.core.parts import PartStatus
from orlopd.host import HostError
from orlopd.plugin import DIFFER, RUNTIME, SNAPSHOTTER, Context
from orlopd.plugin import Config as Section
from orlopd.plugin.errors import Skip
from tests.support.plugins import STORE, Part, plugin, provider, statuses


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
