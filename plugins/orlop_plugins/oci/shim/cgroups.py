"""Where a container's control groups are, on version 1, on version 2 and on both at once (hybrid)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from orlopd.plugin.mount import unescape

# What makes a machine "version 1": a hybrid's empty version 2 tree does not count.
_V1_CONTROLLERS = ("memory", "pids", "cpu", "cpuacct", "blkio", "devices", "freezer", "cpuset", "hugetlb")
_WALKED = ("pids", "devices", "freezer", "memory", "cpu")


@dataclass(frozen=True, slots=True)
class Cgroup:
    """The groups of one container: version 1 by controller, version 2 as ``""``."""

    version: int
    paths: Mapping[str, Path]

    @classmethod
    def of(cls, pid: int, proc: Path = Path("/proc")) -> Cgroup | None:
        """The groups that a process is in, as far as they are not this process's own; None without any."""
        try:
            theirs = _membership(proc / str(pid) / "cgroup")
            ours = _membership(proc / "self" / "cgroup")
            mounts = _mounts(proc / "self" / "mountinfo")
        except OSError:
            return None
        paths: dict[str, Path] = {}
        for controller, inside in theirs.items():
            if ours.get(controller) == inside or controller not in mounts:
                continue
            root, point = mounts[controller]
            relative = inside.removeprefix(root) if root != "/" and inside.startswith(root) else inside
            paths[controller] = Path(point + relative)
        version = 1 if any(name in paths for name in _V1_CONTROLLERS) else 2
        if version == 2:
            paths = {name: path for name, path in paths.items() if name == ""}
        return cls(version, paths) if paths else None

    def path(self, controller: str) -> Path | None:
        """The folder that holds a controller's files."""
        return self.paths.get(controller if self.version == 1 else "")

    def pids(self) -> list[int]:
        """The processes in the group and in those below it; none when it is gone."""
        if self.version == 2:
            top = self.paths[""]
        else:
            top = next((self.paths[name] for name in _WALKED if name in self.paths), None)
            if top is None:
                top = next(iter(self.paths.values()))
        return sorted(set(_pids(top)))

    def oom_kills(self) -> int:
        """How many processes the kernel has killed in the group because memory ran out."""
        folder = self.path("memory")
        if folder is None:
            return 0
        name = "memory.events" if self.version == 2 else "memory.oom_control"
        return read_pairs(folder / name).get("oom_kill", 0)


def groups_at(inside: str, proc: Path = Path("/proc")) -> list[Path]:
    """The folders of a control group in every hierarchy, as far as they are there.

    :param inside: an OCI spec's ``cgroupsPath``, a path that begins with "/" or systemd's
        ``SLICE:PREFIX:NAME``; nothing is found for any other
    """
    parts = Path(unit_path(inside) if inside.count(":") == 2 else inside).parts
    if len(parts) < 2 or parts[0] != "/" or ".." in parts:
        return []
    try:
        mounts = _mounts(proc / "self" / "mountinfo")
    except OSError:
        return []
    folders = {Path(point, *parts[1:]) for _, point in mounts.values()}
    return sorted(folder for folder in folders if folder.is_dir())


def unit_path(inside: str) -> str:
    """Where systemd puts the unit that ``SLICE:PREFIX:NAME`` means: slices lie as their names' dashes say."""
    unit_slice, prefix, name = inside.split(":")
    names = (unit_slice or "system.slice").removesuffix(".slice").split("-")
    slices = [f"{'-'.join(names[: depth + 1])}.slice" for depth in range(len(names)) if any(names)]
    whole = f"{prefix}-{name}" if prefix else name
    unit = name if name.endswith((".slice", ".scope")) else f"{whole}.scope"
    return "/".join(["", *slices, unit])


def members(folder: Path) -> list[int]:
    """The processes in a group and in those below it; none when it is gone."""
    return sorted(set(_pids(folder)))


def read_pairs(path: Path) -> dict[str, int]:
    """A file of lines ``name number``; {} where it is not there."""
    pairs: dict[str, int] = {}
    for line in read_text(path).splitlines():
        name, _, value = line.rpartition(" ")
        if value.isdigit():
            pairs[name] = int(value)
    return pairs


def read_text(path: Path) -> str:
    """A small file; "" where it is not there or cannot be read."""
    try:
        return path.read_text()
    except (OSError, ValueError):
        return ""


def read_number(path: Path, default: int = 0) -> int:
    """A file of one number; "max" is the largest that 64 bits hold."""
    text = read_text(path).strip()
    if text == "max":
        return (1 << 64) - 1
    try:
        return max(int(text), 0)
    except ValueError:
        return default


def _pids(folder: Path) -> Iterator[int]:
    try:
        with (folder / "cgroup.procs").open() as lines:
            yield from (int(line) for line in lines)
        below = [item for item in folder.iterdir() if item.is_dir()]
    except OSError:
        return
    for item in below:
        yield from _pids(item)


def _membership(path: Path) -> dict[str, str]:
    groups: dict[str, str] = {}
    for line in path.read_text().splitlines():
        _, controllers, inside = line.split(":", 2)
        for controller in controllers.split(","):
            groups[controller] = inside
    return groups


def _mounts(path: Path) -> dict[str, tuple[str, str]]:
    mounts: dict[str, tuple[str, str]] = {}
    with path.open(errors="surrogateescape") as lines:  # one at a time: a host of many containers has many
        for line in lines:
            if " - cgroup" not in line:
                continue
            left, _, right = line.rstrip("\n").partition(" - ")
            fields, (kind, _, options) = left.split(" "), right.split(" ", 2)
            where = (unescape(fields[3]), unescape(fields[4]))
            if kind == "cgroup2":
                mounts.setdefault("", where)
            elif kind == "cgroup":
                for option in options.split(","):
                    mounts.setdefault(option, where)
    return mounts
