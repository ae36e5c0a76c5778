"""Clients that do random things to a daemon and write down what they were told."""

from __future__ import annotations

import contextlib
import hashlib
import random
import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc

from tests.support.images import SmallImage

from .api import SNAPSHOTTERS, Api
from .ledger import ANY, LASTING, PREFIX, Died, Key, Ledger

ACTIVE, COMMITTED = 2, 3
KEPT = "kept"
"""The lease of every namespace that is never ended."""

_SHARED = 24
_SNAPSHOTS = 12
_CONTENTS = 60


@dataclass(frozen=True)
class Archive:
    """An image that clients bring in as a whole."""

    name: str
    image: SmallImage
    data: bytes
    reference: str = ""
    """Where a registry has it."""


def payload(number: int) -> bytes:
    """Some bytes, always the same for a number; most are few, some many."""
    source = random.Random(number)
    return source.randbytes(int(1 << source.randrange(1, 20)) + source.randrange(100))


def sha256(data: bytes) -> str:
    """The digest of ``data``."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


class Client(threading.Thread):
    """One namespace's only client. Runs until the daemon dies or ``stop`` is set."""

    def __init__(
        self,
        address: str,
        ledger: Ledger,
        seed: int,
        archives: Sequence[Archive] = (),
        *,
        refusals: Collection[grpc.StatusCode] = (),
    ) -> None:
        """:param refusals: codes that a call may be refused with, and then was not carried out"""
        super().__init__(name=ledger.namespace, daemon=True)
        self._address = address
        self._ledger = ledger
        self._random = random.Random(seed)
        self._archives = archives
        self._refusals = refusals
        self._api: Api
        self.stop = threading.Event()
        self.calls = 0
        self.refused: list[str] = []
        self.error: Exception | None = None

    def run(self) -> None:
        """Do one thing after the other."""
        with grpc.insecure_channel(self._address) as channel:
            self._api = Api(channel, self._ledger.namespace)
            try:
                if ("lease", KEPT) not in self._ledger.known:
                    with self._ledger.change({("lease", KEPT): LASTING}):
                        self._api.create_lease(KEPT)
                while not self.stop.is_set():
                    self._step()
            except Died:
                pass
            except Exception as error:
                self.error = error

    def _step(self) -> None:
        doings: dict[Callable[[], None], int] = {
            self._upload: 30,
            self._resume: 8,
            self._abort: 3,
            self._create_image: 10,
            self._update_image: 8,
            self._delete_image: 6,
            self._label: 8,
            self._read: 4,
            self._delete_content: 3,
            self._create_lease: 4,
            self._add_resource: 5,
            self._delete_lease: 3,
            self._prepare: 8,
            self._commit: 7,
            self._remove_snapshot: 6,
            self._bring_in: 3 if self._archives else 0,
            self._collect: 2,
        }
        do = self._random.choices(list(doings), list(doings.values()))[0]
        try:
            do()
        except grpc.RpcError as error:
            if error.code() not in self._refusals:
                raise
            self.refused.append(f"{do.__name__.strip('_')}: {error.code().name} {error.details()}")
        self.calls += 1

    # --- What there is to choose from ----------------------------------------------------------------

    def _fresh(self, kind: str) -> str:
        return f"{kind}-{self._random.getrandbits(40):x}"

    def _some(self, kind: str) -> str | None:
        """An object of a kind that no collection takes away meanwhile; its last name."""
        kept = self._ledger.reachable()
        names = [name for name in self._ledger.of(kind) if name in kept]
        return self._random.choice(names)[-1] if names else None

    def _lease(self) -> str:
        return self._random.choice([KEPT, KEPT, self._some("lease") or KEPT])

    # --- Content -------------------------------------------------------------------------------------

    def _upload(self) -> None:
        if len(self._ledger.of("content")) > _CONTENTS:
            return self._delete_content()
        number = self._random.choice([self._random.randrange(_SHARED), self._random.getrandbits(40)])
        data, lease, ref = payload(number), self._lease(), self._fresh("ref")
        expected = sha256(data) if self._random.random() < 0.4 else ""
        labels = {"v": self._fresh("v")}
        if self._random.random() < 0.3:
            labels[f"{PREFIX}root"] = "x"
        if self._random.random() < 0.3 and (target := self._some("content")):
            labels[f"{PREFIX}ref.content.0"] = target
        self._ledger.bytes[ref] = data
        self._ledger.expected[ref] = expected
        return self._write(ref, lease, labels)

    def _resume(self) -> None:
        ref = self._some("ingest")
        if ref is not None:
            kept = self._ledger.reachable()
            held = [key[1] for key in self._ledger.of("held") if key[2:] == ("ingests", ref)]
            lease = next(name for name in held if ("lease", name) in kept)
            self._write(ref, lease, {"v": self._fresh("v")})

    def _write(self, ref: str, lease: str, labels: dict[str, str]) -> None:
        ledger, data, expected = self._ledger, self._ledger.bytes[ref], self._ledger.expected[ref]
        digest = sha256(data)
        holds = {("held", lease, "content", digest): True}
        ingest = ("ingest", ref)
        held = ("held", lease, "ingests", ref)
        fresh, before = ingest not in ledger.known, ledger.known.get(ingest, 0)
        try:
            with ledger.change({ingest: 0, held: True} if fresh else {}) as effects:
                upload = self._api.upload(ref, total=len(data), expected=expected, lease=lease)
                effects[ingest] = upload.stat()
        except grpc.RpcError as error:
            if error.code() != grpc.StatusCode.ALREADY_EXISTS:
                raise
            ledger.learn(holds)
            return self._look(digest)
        with contextlib.closing(upload):
            # At its end where another namespace brought the same blob meanwhile.
            stands = {len(data)} if expected else set()
            assert fresh or upload.offset in stands | {before}, f"{ref} of {before} is at {upload.offset}"
            while upload.offset < len(data):
                if self._random.random() < 0.1:
                    return None
                part = data[upload.offset :][: self._random.choice([100, 4096, 50_000, 1 << 20])]
                with ledger.change({ingest: upload.offset + len(part)}) as effects:
                    effects[ingest] = upload.write(part)
            gone = {ingest: None, held: None}
            try:
                with ledger.change({**gone, ("content", digest): labels, **holds}, atomic=True):
                    upload.commit(digest, labels)
            except grpc.RpcError as error:
                if error.code() != grpc.StatusCode.ALREADY_EXISTS:
                    # The store may have made a blob of the bytes; the ref is then written anew.
                    ledger.learn({ingest: None})
                    raise
                ledger.learn({**gone, **holds})
                self._look(digest)
        return None

    def _look(self, digest: str) -> None:
        """Note a blob that was there already, with the labels that it has."""
        with self._ledger.change({}) as effects:
            effects["content", digest] = self._api.info(digest)

    def _abort(self) -> None:
        ref = self._some("ingest")
        if ref is not None:
            gone = [key for key in self._ledger.of("held") if key[2:] == ("ingests", ref)]
            with self._ledger.change({("ingest", ref): None}):
                self._api.abort(ref)
            self._ledger.learn(dict.fromkeys(gone))

    def _label(self) -> None:
        digest = self._some("content")
        if digest is not None:
            value, known = self._fresh("v"), self._ledger.known["content", digest]
            changed = ANY if known is ANY else {**known, "v": value}
            with self._ledger.change({("content", digest): changed}):
                self._api.label(digest, "v", value)

    def _read(self) -> None:
        digest = self._some("content")
        if digest is not None:
            with self._ledger.change({}):
                data = self._api.read(digest)
            assert sha256(data) == digest, f"{digest} reads as {sha256(data)}"

    def _delete_content(self) -> None:
        digest = self._some("content")
        if digest is not None and self._ledger.known["content", digest] is not ANY:
            with self._ledger.change({("content", digest): None}):
                self._api.delete_content(digest)

    # --- Images, leases ------------------------------------------------------------------------------

    def _create_image(self) -> None:
        digest = self._some("content")
        if digest is not None and len(self._ledger.of("image")) < 40:
            name = self._fresh("image")
            with self._ledger.change({("image", name): digest}):
                self._api.create_image(name, digest)

    def _update_image(self) -> None:
        name, digest = self._some("image"), self._some("content")
        if name is not None and digest is not None:
            with self._ledger.change({("image", name): digest}):
                self._api.update_image(name, digest)

    def _delete_image(self) -> None:
        name = self._some("image")
        if name is not None:
            with self._ledger.doubtful({("image", name): None}):
                self._api.delete_image(name, sync=self._random.random() < 0.5)

    def _create_lease(self) -> None:
        if len(self._ledger.of("lease")) > 10:
            return
        name, expires = self._fresh("lease"), None
        if self._random.random() < 0.4:
            expires = datetime.now(UTC) + timedelta(seconds=self._random.uniform(0.1, 4))
        value = LASTING if expires is None else expires.timestamp()
        with self._ledger.change({("lease", name): value}):
            self._api.create_lease(name, expires)

    def _add_resource(self) -> None:
        name, digest = self._some("lease"), self._some("content")
        if name is not None and digest is not None:
            with self._ledger.change({("held", name, "content", digest): True}):
                self._api.add_resource(name, "content", digest)

    def _delete_lease(self) -> None:
        name = self._some("lease")
        if name is None or name == KEPT:
            return
        gone = [key for key in self._ledger.of("held") if key[1] == name]
        # Without their lease ingests may go at any time.
        ingests = [("ingest", key[3]) for key in gone if key[2] == "ingests"]
        with self._ledger.doubtful(dict.fromkeys([("lease", name), *gone, *ingests])):
            self._api.delete_lease(name, sync=self._random.random() < 0.5)

    def _collect(self) -> None:
        name = self._fresh("sweep")
        with self._ledger.change({("lease", name): LASTING}):
            self._api.create_lease(name)
        with self._ledger.doubtful({("lease", name): None}):
            self._api.delete_lease(name, sync=True)

    # --- Snapshots -----------------------------------------------------------------------------------

    def _prepare(self) -> None:
        if len(self._ledger.of("snapshot")) >= _SNAPSHOTS:
            return self._remove_snapshot()
        ledger, snapshotter, key = self._ledger, self._random.choice(SNAPSHOTTERS), self._fresh("active")
        kept = ledger.reachable()
        parents = [
            name[2]
            for name in ledger.of("snapshot")
            if name in kept and name[1] == snapshotter and ledger.known[name][0] == COMMITTED
        ]
        parent = self._random.choice(["", *parents])
        root = self._random.random() < 0.5
        effects: dict[Key, Any] = {("snapshot", snapshotter, key): (ACTIVE, parent, root)}
        if not root:
            effects["held", KEPT, f"snapshots/{snapshotter}", key] = True
        # vfs copies what is below, overlayfs shows it.
        base = ledger.files.get((snapshotter, parent), {}) if snapshotter == "vfs" else {}
        ledger.bases[snapshotter, key], ledger.files[snapshotter, key] = base, dict(base)
        with ledger.change(effects):
            labels = {f"{PREFIX}root": "x"} if root else {}
            mounts = self._api.prepare(snapshotter, key, parent, lease="" if root else KEPT, labels=labels)
        self._fill(mounts, ledger.files[snapshotter, key])
        return None

    def _fill(self, mounts: Sequence[object], files: dict[str, str]) -> None:
        [mount] = mounts
        options = getattr(mount, "options", ())
        upper = [option.removeprefix("upperdir=") for option in options if option.startswith("upperdir=")]
        folder = Path(upper[0] if upper else getattr(mount, "source", ""))
        try:
            for _ in range(self._random.randrange(4)):
                name, data = self._fresh("file"), payload(self._random.getrandbits(30))
                (folder / name).write_bytes(data)
                files[name] = sha256(data)
        except OSError as error:
            if not self._refusals:
                raise Died from error

    def _commit(self) -> None:
        ledger = self._ledger
        active = [key for key in ledger.of("snapshot") if ledger.known[key][0] == ACTIVE]
        if not active:
            return
        kind, snapshotter, key = self._random.choice(active)
        name, parent = self._fresh("layer"), ledger.known[kind, snapshotter, key][1]
        ledger.files[snapshotter, name] = ledger.files[snapshotter, key]
        effects = {(kind, snapshotter, key): None, (kind, snapshotter, name): (COMMITTED, parent, True)}
        with ledger.doubtful(effects, atomic=True):
            self._api.commit_snapshot(snapshotter, name, key, {f"{PREFIX}root": "x"})

    def _remove_snapshot(self) -> None:
        ledger = self._ledger
        if ledger.unsure:
            return  # one of those may be a child
        parents = {(key[1], ledger.known[key][1]) for key in ledger.of("snapshot")}
        own = [key for key in ledger.of("snapshot") if key[1:] not in parents and key[1:] in ledger.files]
        if own:
            key = self._random.choice(own)
            with ledger.change({key: None}):
                self._api.remove_snapshot(key[1], key[2])

    # --- Whole images --------------------------------------------------------------------------------

    def _bring_in(self) -> None:
        archive = self._random.choice(self._archives)
        ledger, blobs = self._ledger, archive.image.blobs
        document = archive.image.document()
        ledger.edges[archive.image.digest] = [
            each["digest"] for each in (document["config"], *document["layers"])
        ]
        effects = {("content", digest): ANY for digest in blobs}
        ledger.imported = True
        # Labels are added to what is there already, even if not all of it can be done.
        ledger.learn({key: ANY for key in effects if key in ledger.known})
        pull = bool(archive.reference) and self._random.random() < 0.5
        name = archive.reference if pull else archive.name
        with ledger.change({("image", name): archive.image.digest, **effects}):
            snapshotter = self._random.choice(SNAPSHOTTERS)
            if pull:
                self._api.pull(name, snapshotter)
            else:
                self._api.load(archive.data, snapshotter)


def wait(clients: Sequence[Client], seconds: float) -> None:
    """Let clients run for a while; ends early if one fails."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not any(client.error for client in clients):
        time.sleep(min(0.02, max(0.0, deadline - time.monotonic())))
