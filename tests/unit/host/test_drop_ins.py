"""Plugins that are files in a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from orlopd.core.parts import PartStatus
from tests.support.plugins import OK, STORE, statuses


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
