"""Files in mounted snapshots: written, and looked at."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import anyio.to_thread

from orlopd.plugin.mount import mounted
from orlopd.plugin.values import Mount

T = TypeVar("T")


async def inside(mounts: Sequence[Mount], work: Callable[[Path], T]) -> T:
    """What ``work`` returns when it is called, in a thread, with the folder that shows ``mounts``."""

    def job() -> T:
        with mounted(mounts) as root:
            return work(root)

    return await anyio.to_thread.run_sync(job)


def tree(root: Path) -> dict[str, str]:
    """Every path below ``root``; with what is in it for a file, "/" for a directory."""
    found: dict[str, str] = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if path.is_symlink():
            found[name] = f"-> {path.readlink()}"
        else:
            found[name] = "/" if path.is_dir() else path.read_text()
    return found


def write(files: dict[str, str | None]) -> Callable[[Path], None]:
    """A job that writes files; "/" makes a directory, None removes."""

    def job(root: Path) -> None:
        for name, content in files.items():
            path = root / name
            if content is None:
                path.rmdir() if path.is_dir() else path.unlink()
            elif content == "/":
                path.mkdir(parents=True, exist_ok=True)
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(content)

    return job
