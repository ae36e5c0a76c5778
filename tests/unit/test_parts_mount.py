"""Mounting: options, many layers, what is refused, what is undone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from orlopd.plugin import _overlay
from orlopd.plugin._syscalls import MS
from orlopd.plugin.errors import FailedPrecondition, InvalidArgument, NotFound, OrlopError, Unimplemented
from orlopd.plugin.files import disk_usage, remove_tree
from orlopd.plugin.mount import (
    escape_option,
    mount,
    mount_all,
    mount_points,
    mounted,
    overlay_layers,
    parse_options,
    read_only,
    unmount,
)
from orlopd.plugin.values import Mount
from orlopd.testing.leftovers import leftovers

__all__ = ["leftovers"]

pytestmark = pytest.mark.usefixtures("leftovers")


def overlay(root: Path, layers: int, folder: str = "layers") -> Mount:
    """An overlay of so many layers, each with a file of its own."""
    lowers: list[str] = []
    for number in range(layers):
        path = root / folder / str(number) / "fs"
        path.mkdir(parents=True)
        (path / f"file-{number}").touch()
        lowers.append(escape_option(str(path), lower=True))
    upper, work = root / "upper", root / "work"
    upper.mkdir()
    work.mkdir()
    options = (f"workdir={escape_option(str(work))}", f"upperdir={escape_option(str(upper))}")
    return Mount("overlay", "overlay", ("index=off", *options, "lowerdir=" + ":".join(lowers)))


def test_options_are_flags_or_data() -> None:
    options = parse_options(["ro", "nosuid", "size=1m", "rprivate", "x-systemd.automount", "defaults", ""])
    assert options.flags == MS.RDONLY | MS.NOSUID
    assert options.propagation == (MS.PRIVATE | MS.REC,)
    assert options.data == ("size=1m",)


def test_the_last_of_two_contradicting_options_wins() -> None:
    assert parse_options(["ro", "rw"]).flags == 0
    assert parse_options(["rw", "ro", "dev", "nodev"]).flags == MS.RDONLY | MS.NODEV


@pytest.mark.parametrize("layers", [1, 60, 500])
@pytest.mark.parametrize("folder", ["layers", "with,comma:colon\\and a space", "x" * 150])
def test_an_overlay_of_many_layers(tmp_path: Path, layers: int, folder: str) -> None:
    with mounted([overlay(tmp_path, layers, folder)], folder=tmp_path) as root:
        assert len(list(root.iterdir())) == layers
        (root / "new").touch()
        (root / "file-0").unlink()
    assert sorted(path.name for path in (tmp_path / "upper").iterdir()) == ["file-0", "new"]


def test_an_overlay_whose_short_paths_are_too_long_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_overlay, "_relative", lambda data, lowers: ("/", "x" * 5000))  # pyright: ignore[reportUnknownLambdaType]
    with mounted([overlay(tmp_path, 200, "with,comma:colon" + "x" * 150)], folder=tmp_path) as root:
        assert len(list(root.iterdir())) == 200
        (root / "new").touch()
    assert (tmp_path / "upper" / "new").exists()


def test_an_overlay_beyond_the_kernels_limit_says_so(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="501 layers: the kernel stacks 500 at most"):
        mount(overlay(tmp_path, 501), tmp_path)


def test_a_read_only_bind(tmp_path: Path) -> None:
    with mounted([Mount("bind", str(tmp_path), ("rbind", "ro"))], folder=tmp_path) as root:
        with pytest.raises(OSError, match="Read-only"):
            (root / "file").touch()
        assert not os.statvfs(root).f_flag & os.ST_NOSUID


def test_a_read_only_bind_keeps_the_flags_there_are(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    mount(Mount("tmpfs", "tmpfs", ("nosuid", "noexec")), tmp_path / "source")
    try:
        source = Mount("bind", str(tmp_path / "source"), ("bind", "ro"))
        with mounted([source], folder=tmp_path) as root:
            flags = os.statvfs(root).f_flag
            assert flags & os.ST_RDONLY
            assert flags & os.ST_NOSUID
            assert flags & os.ST_NOEXEC
    finally:
        unmount(tmp_path / "source")


def test_an_overlay_read_only_shows_the_upper_directory_too(tmp_path: Path) -> None:
    writable = overlay(tmp_path, 2)
    (tmp_path / "upper" / "mine").touch()
    (shown,) = read_only([writable])
    assert not overlay_layers(shown).upper
    with mounted([writable], folder=tmp_path), mounted([shown], folder=tmp_path) as root:
        assert sorted(path.name for path in root.iterdir()) == ["file-0", "file-1", "mine"]
        with pytest.raises(OSError, match="Read-only"):
            (root / "new").touch()


def test_a_target_inside_stays_inside(tmp_path: Path) -> None:
    base, outside = tmp_path / "base", tmp_path / "outside"
    (base / "data").mkdir(parents=True)
    outside.mkdir()
    (base / "way").symlink_to("/data")
    (base / "out").symlink_to(outside)
    into = [
        Mount("bind", str(base), ("bind",)),
        Mount("tmpfs", "tmpfs", ("size=64k", "ro"), target="../../way"),
    ]
    with mounted(into, folder=tmp_path) as root:
        assert mount_points(root) == [str(root), f"{root}/data"]
        assert os.statvfs(root / "data").f_flag & os.ST_RDONLY
    with (
        pytest.raises(NotFound),
        mounted([into[0], Mount("tmpfs", "tmpfs", target="out")], folder=tmp_path),
    ):
        pass


def test_a_failure_undoes_what_was_mounted(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    with pytest.raises(OrlopError):
        mount_all([Mount("tmpfs", "tmpfs"), Mount("bind", "/nonexistent", ("bind",))], target)
    assert mount_points(target) == []


def test_errors_say_what_was_tried(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"bind mount of '/nonexistent' on .* with rbind: No such file"):
        mount(Mount("bind", "/nonexistent", ("rbind",)), tmp_path)
    with pytest.raises(Unimplemented) as caught:
        mount(Mount("nofs", "none"), tmp_path)
    assert caught.value.hint == "this kernel has no filesystem 'nofs'"
    with pytest.raises(FailedPrecondition, match="nonsense=1"):
        mount(Mount("tmpfs", "tmpfs", ("nonsense=1",)), tmp_path)


def test_unmounting(tmp_path: Path) -> None:
    unmount(tmp_path)
    unmount(tmp_path / "missing")
    for _ in range(2):
        mount(Mount("tmpfs", "tmpfs"), tmp_path)
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(FailedPrecondition, match="in use"):
            unmount(tmp_path)
        unmount(tmp_path, detach=True)
    finally:
        os.close(fd)
    assert mount_points(tmp_path) == []


def test_a_tree_deeper_than_any_path_and_any_table_of_descriptors(tmp_path: Path) -> None:
    top = tmp_path / "top"
    top.mkdir()
    fd = os.open(top, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("directory", dir_fd=fd)
        inner = os.open("directory", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = inner
    os.close(fd)
    assert disk_usage(top).inodes == 3001
    remove_tree(top)
    assert not top.exists()


@pytest.mark.parametrize("module", ["errors", "values", "mount", "runtime", "files"])
def test_small_programs_import_little(module: str) -> None:
    heavy = (
        "pydantic",
        "pluggy",
        "anyio",
        "asyncio",
        "sqlite3",
        "tempfile",
        "subprocess",
        "typing_extensions",
    )
    code = f"import sys, orlopd.plugin.{module}; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_packages_names_are_there_all_the_same() -> None:
    import orlopd.plugin

    for name in orlopd.plugin.__all__:
        assert getattr(orlopd.plugin, name) is not None
    assert set(orlopd.plugin.__all__) <= set(dir(orlopd.plugin))
    with pytest.raises(AttributeError, match="nonsense"):
        _ = orlopd.plugin.nonsense  # pyright: ignore
