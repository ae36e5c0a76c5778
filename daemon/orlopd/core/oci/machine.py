"""What this machine has that a container may have a part of."""

from __future__ import annotations

import re
from collections.abc import Set
from functools import cached_property
from pathlib import Path

_PAGES = re.compile(r"hugepages-(\d+)kB")
_LONGEST, _MOST = 4096, 8191  # NR_CPUS is 8192 at most
_UNITS = ("KB", "MB", "GB")


class Machine:
    """Looked at when asked, and once. One object is for one request: a machine's processors come and go.

    :param sys: where sysfs is
    :param proc: where proc is
    """

    def __init__(self, sys: Path = Path("/sys"), proc: Path = Path("/proc")) -> None:
        self._sys = sys
        self._proc = proc

    @cached_property
    def cpus(self) -> Set[int]:
        """The numbers of the processors that run."""
        return self._numbers("devices/system/cpu/online")

    @cached_property
    def memory_nodes(self) -> Set[int]:
        """The numbers of the nodes that have memory."""
        return self._numbers("devices/system/node/has_memory")

    @cached_property
    def huge_pages(self) -> tuple[str, ...]:
        """The sizes of huge pages, as 2MB, the smallest first."""
        found = [_PAGES.fullmatch(path.name) for path in self._sys.glob("kernel/mm/hugepages/*")]
        return tuple(_size(kilobytes) for kilobytes in sorted(int(match[1]) for match in found if match))

    @cached_property
    def most_files(self) -> int:
        """The most that a limit of open files can be."""
        try:
            return int((self._proc / "sys/fs/nr_open").read_text())
        except (OSError, ValueError):
            return 1 << 20

    def _numbers(self, name: str) -> Set[int]:
        try:
            return numbers_of((self._sys / name).read_text().strip())
        except (OSError, ValueError):
            return {0}  # a kernel that does not tell has one


def numbers_of(text: str) -> Set[int]:
    """A set as the kernel writes it, ``0-3,6``. :raises ValueError: it is none, or has numbers beyond any"""
    numbers: set[int] = set()
    if len(text) > _LONGEST:
        raise ValueError("too long")
    for part in text.split(","):
        first, _, last = part.partition("-")
        begin, end = int(first), int(last or first)
        if not 0 <= begin <= end <= _MOST:
            raise ValueError(part)
        numbers.update(range(begin, end + 1))
    return numbers


def text_of(numbers: Set[int]) -> str:
    """A set as the kernel writes it."""
    parts: list[list[int]] = []
    for number in sorted(numbers):
        if parts and parts[-1][-1] == number - 1:
            parts[-1][1:] = [number]
        else:
            parts.append([number])
    return ",".join("-".join(map(str, part)) for part in parts)


def _size(kilobytes: int) -> str:
    unit = 0
    while kilobytes >= 1024 and kilobytes % 1024 == 0 and unit < len(_UNITS) - 1:
        kilobytes, unit = kilobytes // 1024, unit + 1
    return f"{kilobytes}{_UNITS[unit]}"
