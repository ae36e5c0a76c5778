"""Published weaknesses of OCI runtimes, known by the version that a program says it has."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

_DEADLINE = 5.0
_SAID = re.compile(r"(runc|crun) version (\d+)\.(\d+)(?:\.(\d+))?(-rc[.-]?(\d+))?")
_FINAL = 1_000_000
Version = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Advisory:
    """Weaknesses that a release mended, in each series in ``since``, newest last: what is older than all of
    them is weak, and so is what belongs to a series and is older than its own."""

    program: str
    numbers: tuple[str, ...]
    since: tuple[Version, ...]
    what: str


ADVISORIES = (
    Advisory("runc", ("CVE-2019-5736",), ((1, 0, 0, 7),), "a container can overwrite the runtime"),
    Advisory(
        "runc", ("CVE-2024-21626",), ((1, 1, 12, _FINAL),), "a leaked descriptor leads out of a container"
    ),
    Advisory(
        "runc",
        ("CVE-2025-31133", "CVE-2025-52565", "CVE-2025-52881"),
        ((1, 2, 8, _FINAL), (1, 3, 3, _FINAL), (1, 4, 0, 3)),
        "mounts and writes to /proc can be led elsewhere while a container starts",
    ),
)


def weaknesses(said: str) -> list[str]:
    """What is known of the program whose ``--version`` says so, a sentence each; none for others.

    Distributions mend weaknesses without changing the version, which the sentence admits.
    """
    found = _SAID.search(said)
    if found is None:
        return []
    candidate = int(found[6]) if found[6] else _FINAL
    version: Version = (int(found[2]), int(found[3]), int(found[4] or 0), candidate)
    shown = said.split("\n", 1)[0].strip()
    return [
        f"{shown} is known for {', '.join(each.numbers)} ({each.what}), unless whoever packaged it has "
        "mended that: install a newer one"
        for each in ADVISORIES
        if each.program == found[1] and _is_weak(version, each.since)
    ]


def _is_weak(version: Version, since: tuple[Version, ...]) -> bool:
    if version >= since[-1]:
        return False
    return all(version < mended or version[:2] != mended[:2] for mended in since)


def of_installed(names: tuple[str, ...] = ("runc", "crun")) -> list[str]:
    """What is known of the runtimes that are found in $PATH. Blocks."""
    found: list[str] = []
    for name in names:
        path = shutil.which(name)
        if path is not None:
            found += weaknesses(version_of(path))
    return found


def version_of(path: str) -> str:
    """What a program's ``--version`` says; nothing where it cannot be asked. Blocks."""
    try:
        return _said(path, Path(path).stat().st_mtime_ns)
    except OSError:
        return ""


@lru_cache(maxsize=8)
def _said(path: str, _changed: int) -> str:
    try:
        return subprocess.run(
            [path, "--version"],
            capture_output=True,
            text=True,
            timeout=_DEADLINE,
            check=False,
            stdin=subprocess.DEVNULL,
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""
