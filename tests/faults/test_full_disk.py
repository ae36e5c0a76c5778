"""A daemon whose disk is full: it says so, loses nothing, goes on reading, and recovers with the space."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from tests.support.daemon import Daemon, eventually, refused

from .api import SNAPSHOTTERS, Api
from .clients import Archive, Client, sha256, wait
from .disks import Tmpfs
from .ledger import Ledger
from .verify import Disk, Verifier
from .world import FULL, seed

MIB = 1 << 20
NAMESPACE = "full"
ROOT = {"containerd.io/gc.root": "x"}
ROUNDS = 12 if FULL else 3


@dataclass
class Small:
    """A daemon on a small disk."""

    daemon: Daemon
    disk: Tmpfs
    api: Api

    @contextmanager
    def full(self, leave: int = 0) -> Iterator[None]:
        """With a full disk."""
        self.disk.fill(leave)
        try:
            yield
        finally:
            self.disk.free()

    def clean(self) -> list[str]:
        """What is wrong after a collection."""
        self.api.collect(f"clean-{secrets.token_hex(4)}")
        return list(Disk(self.daemon.root).check([]))


@pytest.fixture
def small() -> Iterator[Small]:
    daemon = Daemon()
    try:
        with Tmpfs(daemon.root, 64) as disk:
            try:
                daemon.start()
                with daemon.channel() as channel:
                    yield Small(daemon, disk, Api(channel, NAMESPACE))
                daemon.stop()
            finally:
                if daemon.running:
                    daemon.kill9()
    finally:
        daemon.remove()


@contextmanager
def exhausted() -> Iterator[None]:
    """The code of a full disk, and words that tell."""
    with pytest.raises(grpc.RpcError) as raised:
        yield
    assert raised.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED, raised.value.details()
    assert any(word in str(raised.value.details()).lower() for word in ("space", "full"))


def test_content(small: Small) -> None:
    kept, large = secrets.token_bytes(MIB), secrets.token_bytes(4 * MIB)
    small.api.put("kept", kept, sha256(kept), labels=ROOT)
    small.api.create_lease("lease")
    with small.full(leave=2 * MIB):
        upload = small.api.upload("ref", total=len(large), lease="lease")
        upload.stat()
        with exhausted():
            for start in range(0, len(large), MIB // 2):
                upload.write(large[start : start + MIB // 2])
        assert 0 < upload.offset < len(large)
        assert small.api.read(sha256(kept)) == kept
    with small.api.upload("ref", total=len(large), lease="lease") as again:
        # What was acknowledged is there, and no more.
        assert again.offset == upload.offset
        again.write(large[again.offset :])
        again.commit(sha256(large), {})
    assert small.api.read(sha256(large)) == large
    assert small.clean() == []


def refused_at(create: Callable[[str], object], most: int = 5000) -> list[str]:
    """Make things until there is no space; the names of those that were made."""
    made: list[str] = []
    with exhausted():
        for number in range(most):
            create(f"name-{number}")
            made.append(f"name-{number}")
    return made


def test_metadata(small: Small) -> None:
    data = secrets.token_bytes(MIB)
    small.api.put("kept", data, sha256(data), labels=ROOT)
    with small.full():
        images = refused_at(lambda name: small.api.create_image(name, sha256(data)))
        leases = refused_at(small.api.create_lease)
        seen = small.api.observe()
        assert small.api.read(sha256(data)) == data
        small.daemon.check_health()
    assert {key[1] for key in seen if key[0] == "image"} == set(images)
    assert {key[1] for key in seen if key[0] == "lease"} == set(leases)
    small.api.create_image("afterwards", sha256(data))
    assert small.api.observe() == {**seen, ("image", "afterwards"): sha256(data)}
    small.daemon.kill9()
    small.daemon.start()
    assert small.api.observe() == {**seen, ("image", "afterwards"): sha256(data)}
    for name in images:
        small.api.delete_image(name, sync=False)
    assert small.clean() == []


@pytest.mark.parametrize("snapshotter", SNAPSHOTTERS)
def test_snapshots(small: Small, snapshotter: str) -> None:
    [mount] = small.api.prepare(snapshotter, "first", "", labels=ROOT)
    (Path(mount.source) / "file").write_bytes(secrets.token_bytes(MIB))
    small.api.commit_snapshot(snapshotter, "base", "first", ROOT)
    with small.full():
        made = refused_at(lambda name: small.api.prepare(snapshotter, name, "base", labels=ROOT))
        seen = small.api.observe()
    assert {key[2] for key in seen if key[0] == "snapshot"} == {"base", *made}
    small.api.prepare(snapshotter, "afterwards", "base", labels=ROOT)
    assert small.clean() == []


def test_a_commit_that_finds_no_space_can_be_done_again(small: Small) -> None:
    small.api.prepare("vfs", "key", "", labels=ROOT)
    with small.full():
        # The next change of the metadata is refused, or one of the next.
        refused_at(small.api.create_lease)
        with exhausted():
            small.api.commit_snapshot("vfs", "name", "key", ROOT)
    try:
        small.api.commit_snapshot("vfs", "name", "key", ROOT)
    except grpc.RpcError as error:
        if error.code() != grpc.StatusCode.ALREADY_EXISTS:
            raise
    assert [key for key in small.api.observe() if key[0] == "snapshot"] == [("snapshot", "vfs", "name")]
    assert small.clean() == []


@pytest.mark.parametrize("way", ["load", "pull"])
def test_images(small: Small, archives: list[Archive], way: str) -> None:
    archive = archives[0]

    def bring() -> None:
        if way == "load":
            small.api.load(archive.data, "vfs")
        else:
            small.api.pull(archive.reference, "vfs")

    with small.full(leave=MIB):
        with exhausted():
            bring()
        assert not [key for key in small.api.observe() if key[0] == "image"]
    assert small.clean() == []
    bring()
    assert [key for key in small.api.observe() if key[0] == "image"]
    assert small.clean() == []


def test_a_daemon_on_a_full_disk_starts_or_says_why(small: Small) -> None:
    small.api.create_lease("kept")
    small.daemon.stop()
    with small.full():
        try:
            small.daemon.start()
        except RuntimeError:
            _, said = refused(small.daemon)
            assert "space" in said or "full" in said
        else:
            assert ("lease", "kept") in small.api.observe()
    if not small.daemon.running:
        small.daemon.start()
    assert ("lease", "kept") in small.api.observe()


@pytest.mark.timeout(600 if FULL else 120)
def test_clients_of_a_disk_that_is_full_at_times(small: Small, archives: list[Archive]) -> None:
    value = seed()
    ledgers = [Ledger(f"n{number}") for number in range(3)]
    clients: list[Client] = []
    told: set[str] = set()
    for number in range(ROUNDS):
        clients = [
            Client(
                small.daemon.address,
                ledger,
                value + 100 * number + place,
                archives,
                refusals={grpc.StatusCode.RESOURCE_EXHAUSTED},
            )
            for place, ledger in enumerate(ledgers)
        ]
        for client in clients:
            client.start()
        wait(clients, 0.5)
        small.disk.fill()
        wait(clients, 0.8)
        if not told:
            eventually(lambda now=clients: any(each.refused or each.error for each in now), bool, 10)
        for client in clients:
            client.stop.set()
        for client in clients:
            client.join(30)
        small.disk.free()
        assert [client.error for client in clients if client.error] == []
        told |= {refusal for client in clients for refusal in client.refused}
        found = Verifier(small.daemon, ledgers, value + number, durable=True).verify()
        print(*found, sep="\n")  # noqa: T201
        assert found == []
    assert told, "the disk was never full"
