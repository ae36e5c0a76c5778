"""A daemon that is cut off and started again, over and over, with its clients and what they know."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.support.daemon import Daemon, eventually, processes_naming
from tests.support.images import make_image, save_archive, text_layer
from tests.support.registry import Registry

from .clients import Archive, Client, wait
from .disks import Ext4
from .ledger import Dying, Ledger
from .verify import Verifier

NAMESPACES = 3
FULL = bool(os.environ.get("ORLOP_PROVE"))


def seed() -> int:
    """The seed of this run, printed so that it can be set again."""
    value = int(os.environ.get("ORLOP_SEED") or random.SystemRandom().getrandbits(32))
    print(f"ORLOP_SEED={value}")  # noqa: T201
    return value


@dataclass
class Tally:
    """What a run did."""

    points: int = 0
    calls: int = 0
    hashed: int = 0
    resumed: int = 0
    cut: Counter[str] = field(default_factory=lambda: Counter[str]())
    """Points by what was in flight."""

    def __str__(self) -> str:
        flights = ", ".join(f"{count} {what}" for what, count in self.cut.most_common())
        return (
            f"{self.points} points, {self.calls} calls, {self.hashed} blobs hashed again, "
            f"{self.resumed} ingests resumed; in flight: {flights}"
        )


class World:
    """The daemon, and what each namespace's client was told.

    :param disk: what the daemon's root is on, if power is to be cut
    """

    def __init__(
        self, daemon: Daemon, seed: int, archives: Sequence[Archive] = (), *, disk: Ext4 | None = None
    ) -> None:
        self.daemon = daemon
        self.random = random.Random(seed)
        self.dying = Dying()
        self.ledgers = [Ledger(f"n{number}", self.dying) for number in range(NAMESPACES)]
        self.tally = Tally()
        self._archives = archives
        self._disk = disk

    def point(self) -> list[str]:
        """Let clients work, cut the daemon off, start it again; what is wrong then."""
        clients = [
            Client(self.daemon.address, ledger, self.random.getrandbits(60), self._archives)
            for ledger in self.ledgers
        ]
        self.dying.now = False
        for client in clients:
            client.start()
        wait(clients, self.random.uniform(0.01, 0.9))
        self.dying.now = True
        cut_off = bool(clients) and not any(client.error for client in clients)
        if self._disk is not None:
            self._disk.cut()
        self.daemon.kill9()
        for client in clients:
            client.join(30)
            self.tally.calls += client.calls
        for ledger in self.ledgers:
            self.tally.cut["+".join(sorted({key[0] for key in ledger.pending})) or "none"] += 1
        found = [
            f"{client.name}: {''.join(traceback.format_exception(client.error))}"
            for client in clients
            if client.error
        ]
        self._start_again()
        verifier = Verifier(
            self.daemon, self.ledgers, self.random.getrandbits(60), durable=self._disk is None
        )
        found += verifier.verify()
        self.tally.points += cut_off
        self.tally.hashed += verifier.hashed
        self.tally.resumed += verifier.resumed
        return found

    def _start_again(self) -> None:
        self._mend()
        while self.random.random() < 0.15:
            # Not even recovery may be what must not be interrupted.
            with self.daemon.log_file.open("ab") as log:
                process = subprocess.Popen(
                    self.daemon.command, stdout=log, stderr=log, env=self.daemon.environment
                )
                time.sleep(self.random.uniform(0.1, 1.2))
                if self._disk is not None:
                    self._disk.cut()
                process.kill()
                process.wait()
            self._mend()
        self.daemon.start()

    def _mend(self) -> None:
        if self._disk is not None:
            folder = str(self.daemon.folder)
            eventually(lambda: processes_naming(folder), lambda found: not found, 20)
            self._disk.mend()
            shutil.rmtree(self.daemon.state, ignore_errors=True)  # it is in memory, commonly


def run(world: World, points: int, *, say: Callable[[str], None] = print) -> list[str]:
    """As many points; what is wrong at the first that is bad."""
    for number in range(points):
        found = world.point()
        if found:
            say(str(world.tally))
            for finding in found:
                say(finding)
            return [f"at point {number}: {finding}" for finding in found[:30]]
        if number % 25 == 24:
            say(str(world.tally))
    say(str(world.tally))
    return []


@contextmanager
def powered(
    seed: int, archives: Sequence[Archive] = (), *, size: int = 128, plugins: Mapping[str, str] | None = None
) -> Iterator[World]:
    """A world whose daemon has its root on a disk that power cuts lose nothing of but what was not synced.

    :param size: of the disk, in MiB
    """
    daemon = Daemon(plugins=plugins)
    try:
        with Ext4(daemon.folder / "disk", daemon.root, size) as disk:
            try:
                daemon.start()
                yield World(daemon, seed, archives, disk=disk)
            finally:
                if daemon.running:
                    daemon.kill9()
                folder = str(daemon.folder)
                eventually(lambda: processes_naming(folder), lambda found: not found, 20)
    finally:
        daemon.remove()


def archives(folder: Any, registry: Registry | None = None) -> list[Archive]:
    """Some small images, in a registry too if there is one."""
    made: list[Archive] = []
    for number in range(3):
        layers = [text_layer(f"file-{number}-{layer}", f"{number} {layer} " * 20_000) for layer in range(3)]
        image = make_image([text_layer("base", "base " * 50_000), *layers])
        name = f"example.test/image-{number}:latest"
        data = save_archive(folder / f"{number}.tar", name, image=image).read_bytes()
        reference = registry.push(f"image-{number}:latest", image) if registry else ""
        made.append(Archive(name, image, data, reference))
    return made
