"""What overlay filesystem this machine has, for parts that stack their layers with it."""

# Descriptors, and paths that are no Path.
# ruff: noqa: PTH123, PTH208

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Sequence
from pathlib import Path

from .errors import OrlopError, Skip
from .files import remove_tree
from .mount import escape_option, mounted, unescape, unmount
from .values import Mount


def overlay_options() -> tuple[str, ...]:
    """The options every overlay mount needs here.

    ``index=off``: the same lower directory may be under several mounts. ``userxattr``: without the initial
    user namespace's privileges overlay keeps its marks in ``user.`` attributes.
    """
    options: list[str] = []
    if Path("/sys/module/overlay/parameters/index").exists():
        options.append("index=off")
    if in_user_namespace():
        options.append("userxattr")
    return tuple(options)


def in_user_namespace() -> bool:
    """Whether root here is not root of the machine (user_namespaces(7))."""
    try:
        mapping = Path("/proc/self/uid_map").read_text().split()
    except FileNotFoundError:
        return False
    return mapping != ["0", "0", "4294967295"]


def probe(root: Path, options: Sequence[str] = ()) -> None:
    """Try an overlay whose upper directory is in ``root``, whiteout included.

    :param options: further options for the mount
    :raises Skip: it does not work, and why
    """
    _remove_stale(root)
    given = tuple(options)
    scratch = root / f"probe-{os.urandom(4).hex()}"
    lower, upper, work = (scratch / name for name in ("lower", "upper", "work"))
    for path in (scratch, lower, upper, work):
        path.mkdir(mode=0o700)
    try:
        (lower / "file").touch()
        options = (
            *overlay_options(),
            *options,
            f"lowerdir={escape_option(str(lower), lower=True)}",
            f"upperdir={escape_option(str(upper))}",
            f"workdir={escape_option(str(work))}",
        )
        with mounted([Mount("overlay", "overlay", options)], folder=scratch) as merged:
            (merged / "file").unlink()
            left = os.listdir(merged)
        if left:
            raise Skip(
                f"overlay on {filesystem(root)} at {str(root)!r} cannot hide a file: no whiteouts or d_type"
            )
    except OrlopError as error:
        raise Skip(
            f"overlay does not work with an upper directory on {filesystem(root)} at {str(root)!r}"
            f"{f' and {chr(44).join(given)}' if given else ''}: {error.message.rpartition(': ')[2]}"
        ) from error
    except OSError as error:
        raise Skip(
            f"overlay on {filesystem(root)} at {str(root)!r} cannot be used: {error.strerror}"
        ) from error
    finally:
        remove_tree(scratch)


def _remove_stale(root: Path) -> None:
    """Remove what a probe left that died with its process."""
    for stale in root.glob("probe-*"):
        with contextlib.suppress(OrlopError, OSError):
            unmount(stale, detach=True)
            remove_tree(stale)


def filesystem(path: Path) -> str:
    """The type of the filesystem that ``path`` is on."""
    found, longest = "an unknown filesystem", -1
    here = os.path.realpath(path)
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            before, _, after = line.partition(" - ")
            point = unescape(before.split(" ")[4])
            # The last one of several on one point is the one that is seen.
            if len(point) >= longest and (here == point or here.startswith(point.rstrip("/") + "/")):
                found, longest = after.split(" ", 1)[0], len(point)
    return found


def stacked(
    lowers: Sequence[Path],
    upper: Path | None = None,
    work: Path | None = None,
    *,
    options: Sequence[str] = (),
) -> Mount:
    """An overlay of directories, the topmost of ``lowers`` first; read-only without ``upper``."""
    parts = list(options)
    if upper is not None:
        parts.append(f"workdir={escape_option(str(work))}")
        parts.append(f"upperdir={escape_option(str(upper))}")
    if lowers:
        parts.append(_lowerdir(tuple(lowers)))
    return Mount("overlay", "overlay", tuple(parts))


@functools.lru_cache(128)
def _lowerdir(lowers: tuple[Path, ...]) -> str:
    return "lowerdir=" + ":".join(escape_option(str(path), lower=True) for path in lowers)
