"""What /proc knows of a shim. Everything here blocks for a moment."""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from orlopd.plugin.shim_info import ShimInfo


def seen(info: ShimInfo) -> ShimInfo:
    """What is known of a shim, with what can be seen of its process."""
    if not info.pid:
        return info
    pid = info.pid
    return replace(info, binary=info.binary or program(pid), memory=memory(pid), started_at=started(pid))


def memory(pid: int) -> int:
    """Bytes of a process that are its alone, in proportion to what it shares (Pss); 0 where there is none."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    lines = (line.split() for line in text.splitlines() if line.startswith("Pss:"))
    return next((int(fields[1]) * 1024 for fields in lines), 0)


def program(pid: int) -> str:
    """What it was started as: the first word of its command line, or its executable."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        first = os.fsdecode(words[0]).split(" ")[0]
        return first or str(Path(f"/proc/{pid}/exe").readlink())
    except (OSError, IndexError):
        return ""


def started(pid: int) -> datetime | None:
    """When it was started, to a hundredth of a second."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
        ticks = int(stat[stat.rindex(b")") + 2 :].split()[19])
        boot = next(
            int(line.split()[1]) for line in Path("/proc/stat").read_text().splitlines() if "btime" in line
        )
    except (OSError, ValueError, IndexError, StopIteration):
        return None
    return datetime.fromtimestamp(boot + ticks / os.sysconf("SC_CLK_TCK"), UTC)
