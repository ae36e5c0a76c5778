"""A layer unpacked before those below it were known, put on them."""

from __future__ import annotations

import os
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from orlop_plugins.overlayfs.snapshotter import OverlaySnapshotter
from orlopd.plugin.mount import overlay_layers
from orlopd.plugin.overlay import overlay_options
from orlopd.plugin.rebase import implied, opaque
from orlopd.plugin.snapshots import REBASE_LABEL
from orlopd.testing.snapshotter import inside, tree, write

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def overlay(tmp_path: Path) -> AsyncIterator[OverlaySnapshotter]:
    part = OverlaySnapshotter(tmp_path, overlay_options())
    yield part
    await part.aclose()


async def bare(overlay: OverlaySnapshotter) -> Path:
    (mount,) = await overlay.prepare("top", "", {REBASE_LABEL: "true"})
    assert mount.type == "overlay"
    layers = overlay_layers(mount)
    assert layers.lower == ()
    return Path(layers.upper)


async def base(overlay: OverlaySnapshotter) -> None:
    def make(root: Path) -> None:
        write({"a": "1", "d/x": "1", "e/x": "1", "i/x": "1"})(root)
        os.chown(root / "i", 5, 6)
        (root / "i").chmod(0o1770)
        os.setxattr(root / "i", "user.colour", b"blue")
        os.utime(root / "i", ns=(7, 8_000_000_000))

    await inside(await overlay.prepare("key", ""), make)
    await overlay.commit("base", "key")


def whiteout(path: Path) -> None:
    os.mknod(path, stat.S_IFCHR, 0)


async def test_marks_that_hide_nothing_are_dropped(overlay: OverlaySnapshotter) -> None:
    upper = await bare(overlay)
    write({"new": "/", "d": "/", "closed": "/"})(upper)
    for name in ("a", "d/x", "gone", "new/gone", "d/gone", "closed/x"):
        whiteout(upper / name)
    os.setxattr(upper / "closed", opaque(), b"y")
    os.utime(upper / "new", ns=(1, 2_000_000_000))
    await base(overlay)
    await overlay.commit_onto("moved", "top", "base")
    shown = await inside(await overlay.view("seen", "moved"), tree)
    assert sorted(shown) == ["closed", "d", "e", "e/x", "i", "i/x", "new"]
    assert sorted(path.name for path in upper.rglob("*")) == ["a", "closed", "d", "new", "x"]
    assert (upper / "new").stat().st_mtime_ns == 2_000_000_000


async def test_an_emptied_root_hides_all(overlay: OverlaySnapshotter) -> None:
    upper = await bare(overlay)
    write({"d/y": "2"})(upper)
    os.setxattr(upper, opaque(), b"y")
    await base(overlay)
    await overlay.commit_onto("moved", "top", "base")
    assert await inside(await overlay.view("seen", "moved"), tree) == {"d": "/", "d/y": "2"}


async def test_implied_directories_are_those_below(overlay: OverlaySnapshotter) -> None:
    upper = await bare(overlay)
    write({"i/y": "2", "j/y": "2"})(upper)
    for name in ("i", "j"):
        os.setxattr(upper / name, implied(), b"y")
    await base(overlay)
    await overlay.commit_onto("moved", "top", "base")

    def look(root: Path) -> list[tuple[int, int, int, list[str]]]:
        found: list[tuple[int, int, int, list[str]]] = []
        for name in ("i", "j"):
            info = (root / name).stat()
            found.append((info.st_uid, info.st_gid, stat.S_IMODE(info.st_mode), os.listxattr(root / name)))
        assert (root / "i").stat().st_mtime_ns == 8_000_000_000
        return found

    assert await inside(await overlay.view("seen", "moved"), look) == [
        (5, 6, 0o1770, ["user.colour"]),
        (0, 0, 0o755, []),
    ]
