"""A container's folder: its log, the files bound into it, and what outlives its task.

    ROOT/containers/NAMESPACE/ID/output.log[.N]   written by the shim
                                 hostname hosts resolv.conf
                                 life.json health.json

Everything here blocks: call it in a thread.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from orlopd.core.oci import NO_MAPS, IdMaps, MountKind, Network, Rootfs, SpecMount
from orlopd.plugin.errors import InvalidArgument
from orlopd.plugin.files import remove_tree
from orlopd.plugin.mount import unmount
from orlopd.plugin.runtime import Exit

from .model import NO_LIFE, Health, HealthResult, HealthStatus, Life

LOG = "output.log"
_FILES = {"hostname": "/etc/hostname", "hosts": "/etc/hosts", "resolv.conf": "/etc/resolv.conf"}
_HOSTS = """127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
fe00::\tip6-localnet
ff00::\tip6-mcastprefix
ff02::1\tip6-allnodes
ff02::2\tip6-allrouters
"""
_MOST_HOST_FILE = 1 << 20


class Folders:
    """The folders of all containers."""

    def __init__(self, root: Path) -> None:
        """:param root: ROOT/containers; made if missing, closed to others"""
        self._root = root
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.mounts.mkdir(mode=0o700, exist_ok=True)
        self.copies.mkdir(mode=0o700, exist_ok=True)

    @property
    def mounts(self) -> Path:
        """Where root filesystems are shown while somebody looks into them."""
        return self._root / ".mounts"

    @property
    def copies(self) -> Path:
        """Where what is to be copied into a container is kept meanwhile."""
        return self._root / ".copies"

    def clean(self) -> None:
        """Undo what a crash left half done in :attr:`mounts` and :attr:`copies`."""
        unmount(self.mounts, detach=True)
        for left in (*self.mounts.iterdir(), *self.copies.iterdir()):
            remove_tree(left)

    def of(self, namespace: str, id: str) -> Path:
        """A container's folder, be it there or not.

        :raises InvalidArgument: a name that would lead elsewhere; the records' grammar allows none
        """
        if "/" in namespace or "/" in id or namespace in ("", ".", "..") or id in ("", ".", ".."):
            raise InvalidArgument(f"no container can be called {namespace!r}/{id!r}")
        return self._root / namespace / id

    def log(self, namespace: str, id: str) -> Path:
        """Where a container's log is."""
        return self.of(namespace, id) / LOG

    def make(self, namespace: str, id: str) -> Path:
        """Make a container's folder if it is missing."""
        folder = self.of(namespace, id)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return folder

    def remove(self, namespace: str, id: str) -> None:
        """Remove a container's folder; no error if there is none."""
        remove_tree(self.of(namespace, id))
        with contextlib.suppress(OSError):
            (self._root / namespace).rmdir()

    def all(self) -> Iterator[tuple[str, str]]:
        """Namespace and id of every folder."""
        for namespace in _folders(self._root):
            for folder in _folders(namespace):
                yield namespace.name, folder.name

    def life(self, namespace: str, id: str) -> Life:
        """What outlives a container's task; nothing where nothing (readable) was kept."""
        try:
            kept = json.loads((self.of(namespace, id) / "life.json").read_text())
            started = kept.get("started_at")
            ended = kept.get("exit")
            return Life(
                datetime.fromisoformat(started) if started else None,
                Exit(ended["code"], datetime.fromisoformat(ended["at"]), ended["reason"]) if ended else None,
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return NO_LIFE

    def keep_life(self, namespace: str, id: str, life: Life) -> None:
        """Replace what outlives a container's task. A container without a folder gets one."""
        ended = life.exit
        text = json.dumps(
            {
                "started_at": life.started_at.isoformat() if life.started_at else None,
                "exit": {"code": ended.code, "at": ended.at.isoformat(), "reason": ended.reason}
                if ended
                else None,
            }
        )
        path = self.make(namespace, id) / "life.json"
        part = path.with_suffix(".part")
        part.write_text(text)
        # Atomic but not synced: a power failure ends the container anyway, and each start would wait for it.
        part.replace(path)

    def health(self, namespace: str, id: str, started_at: datetime) -> Health | None:
        """What checks said since a start; None where nothing (readable) was kept of it."""
        try:
            kept = json.loads((self.of(namespace, id) / "health.json").read_text())
            if datetime.fromisoformat(kept["started_at"]) != started_at:
                return None
            log = tuple(
                HealthResult(
                    datetime.fromisoformat(each["started_at"]),
                    datetime.fromisoformat(each["ended_at"]),
                    each["code"],
                    each["output"],
                )
                for each in kept["log"]
            )
            return Health(HealthStatus(kept["status"]), kept["failing_streak"], log)
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def keep_health(self, namespace: str, id: str, started_at: datetime, health: Health) -> None:
        """Replace what checks said. Nothing happens where the container is gone."""
        text = json.dumps(
            {
                "started_at": started_at.isoformat(),
                "status": health.status.value,
                "failing_streak": health.failing_streak,
                "log": [
                    {
                        "started_at": each.started_at.isoformat(),
                        "ended_at": each.ended_at.isoformat(),
                        "code": each.code,
                        "output": each.output,
                    }
                    for each in health.log
                ],
            }
        )
        path = self.of(namespace, id) / "health.json"
        part = path.with_suffix(".part")
        with contextlib.suppress(FileNotFoundError):
            part.write_text(text)
            part.replace(path)

    def write_files(
        self, namespace: str, id: str, hostname: str, network: Network, maps: IdMaps = NO_MAPS
    ) -> None:
        """Write the files that are bound into a container, anew for each start: hosts change networks.

        They belong to the container's root.
        """
        folder = self.make(namespace, id)
        host = network is Network.HOST
        owner = (maps.uid(0), maps.gid(0)) if maps else (0, 0)
        _replace(folder / "hostname", hostname.encode() + b"\n", owner)
        own = f"127.0.1.1\t{hostname}\n" if hostname else ""
        hosts = _host_file("/etc/hosts", b"") if host else (_HOSTS + own).encode()
        _replace(folder / "hosts", hosts, owner)
        _replace(folder / "resolv.conf", _host_file("/etc/resolv.conf", b"") if host else b"", owner)

    def binds(self, namespace: str, id: str, present: Rootfs | None) -> tuple[SpecMount, ...]:
        """The mounts of those files.

        :param present: bind only over files that are there; a directory of the user's own is not to
            be littered with mount points
        """
        folder = self.of(namespace, id)
        return tuple(
            SpecMount(MountKind.BIND, target, str(folder / name), options=("bind",))
            for name, target in _FILES.items()
            if present is None or present.is_file(target)
        )


def _replace(path: Path, data: bytes, owner: tuple[int, int]) -> None:
    # In place: a running container's bind mount shows the inode it was given.
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    with open(fd, "wb") as file:  # noqa: PTH123
        os.fchmod(fd, 0o644)
        if os.geteuid() == 0:
            os.fchown(fd, *owner)
        file.write(data)


def _host_file(path: str, otherwise: bytes) -> bytes:
    try:
        with open(path, "rb") as file:  # noqa: PTH123
            return file.read(_MOST_HOST_FILE)
    except OSError:
        return otherwise


def _folders(path: Path) -> list[Path]:
    try:
        return [
            Path(entry)
            for entry in os.scandir(path)
            if entry.is_dir(follow_symlinks=False) and entry.name[0] != "."
        ]
    except OSError:
        return []
