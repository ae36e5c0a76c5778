"""Compares what clients were told with what a restarted daemon has, over its API and on the disk."""

from __future__ import annotations

import hashlib
import os
import random
import re
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import grpc

from tests.support.daemon import Daemon, mounts_under

from .api import SNAPSHOTTERS, Api
from .clients import COMMITTED, KEPT, sha256
from .ledger import ANY, LASTING, Key, Ledger, reachable

_TEMPORARY = re.compile(r"\.part$|^probe-|\.tmp$|-journal$")


class Verifier:
    """Looks at a daemon that was started again, and brings the ledgers up to date.

    :param durable: whether what was written to an ingest must be there; not so after a power cut
    """

    def __init__(self, daemon: Daemon, ledgers: Sequence[Ledger], seed: int, *, durable: bool) -> None:
        self._daemon = daemon
        self._ledgers = ledgers
        self._random = random.Random(seed)
        self._durable = durable
        self.hashed = 0
        self.resumed = 0

    def verify(self) -> list[str]:
        """What is wrong, in sentences."""
        found: list[str] = []
        with self._daemon.channel() as channel:
            for ledger in self._ledgers:
                api = Api(channel, ledger.namespace)
                findings = [*self._compare(api, ledger), *self._resume(api, ledger)]
                found += [f"{ledger.namespace}: {finding}" for finding in findings]
            found += self._collect(channel)
        return found

    # --- What was acknowledged -----------------------------------------------------------------------

    def _compare(self, api: Api, ledger: Ledger) -> Iterator[str]:
        at = time.time()
        seen = api.observe()
        after = time.time()
        # Blobs and snapshots that are gone may only be those that nothing kept.
        merged = {**ledger.known, **{key: seen[key] for key in seen if key[0] != "content"}}
        merged = {
            key: value for key, value in merged.items() if key in seen or key[0] not in {"image", "lease"}
        }
        # An import's own lease names what the import is about to make.
        known = {*ledger.known, *ledger.pending}
        merged = {key: value for key, value in merged.items() if key[0] != "lease" or key in known}
        kept = reachable(merged, ledger.edges, after)
        for key in sorted({*ledger.known, *ledger.pending, *seen}):
            if key[0] == "ingest" or key in ledger.unsure:
                continue
            allowed = [ledger.known.get(key)]
            if key in ledger.pending:
                allowed.append(ledger.pending[key])
            value = seen.get(key)
            if any(_same(value, each) for each in allowed) or self._may_differ(key, value, ledger, kept, at):
                continue
            yield f"{key} is {value}, acknowledged {allowed}"
        yield from self._halves(ledger, seen, kept)
        ledger.files = {name: files for name, files in ledger.files.items() if ("snapshot", *name) in seen}
        ingests = {key: value for key, value in ledger.known.items() if key[0] == "ingest"}
        for key, value in ledger.pending.items():
            if key[0] == "ingest" and value is not None:
                ingests.setdefault(key, 0)
        self._seen_ingests = ingests
        ledger.known = seen

    def _may_differ(self, key: Key, value: Any, ledger: Ledger, kept: set[Key], at: float) -> bool:
        match key[0]:
            case "content" | "snapshot" if value is None:
                return key not in kept
            case "content" | "snapshot":
                # What an import made along the way; collected later if nothing keeps it.
                return ledger.imported and key not in ledger.known
            case "lease" if value is None:
                return ledger.known[key] < at + 1
            case "lease":
                return ledger.imported and value != LASTING
            case "held" if value is None:
                lease = ledger.known.get(("lease", key[1]), 0)
                gone = ("lease", key[1]) in ledger.pending
                return gone or lease < at + 1 or key[2] == "ingests"
            case "held":
                return True
            case _:
                return False

    def _halves(self, ledger: Ledger, seen: Mapping[Key, Any], kept: set[Key]) -> Iterator[str]:
        if not ledger.atomic:
            return
        parts = {key: value for key, value in ledger.pending.items() if key[0] in {"snapshot", "image"}}
        old = all(_same(seen.get(key), ledger.known.get(key)) for key in parts)
        new = all(_same(seen.get(key), value) for key, value in parts.items())
        if not (old or new):
            yield f"half done: {parts}"

    # --- Ingests -------------------------------------------------------------------------------------

    def _resume(self, api: Api, ledger: Ledger) -> Iterator[str]:
        """Go on with what was interrupted, half of it to the end."""
        for key, acknowledged in self._seen_ingests.items():
            ref = key[1]
            data, expected = ledger.bytes[ref], ledger.expected[ref]
            pending = ledger.pending.get(key, 0)
            least = acknowledged if self._durable and pending is not None else 0
            most = max(acknowledged, pending or 0)
            lasting = {each[1] for each in ledger.of("lease") if ledger.known[each] > time.time() + 10}
            held = {each[1] for each in ledger.of("held") if each[2:] == ("ingests", ref)}
            leases = sorted(lasting & held)
            if not leases or ("content", sha256(data)) in ledger.known:
                # Committed already, or its lease ended: then it goes, or has gone.
                continue
            try:
                with api.upload(ref, total=len(data), expected=expected, lease=leases[0]) as upload:
                    whole = expected and upload.offset == len(data)
                    if not (least <= upload.offset <= most or whole):
                        yield f"ingest {ref} is at {upload.offset}, acknowledged {acknowledged} or {pending}"
                    if self._random.random() < 0.5:
                        ledger.known[key] = upload.offset
                        continue
                    while upload.offset < len(data):
                        upload.write(data[upload.offset :][: 1 << 18])
                    upload.commit(sha256(data), {})
                self.resumed += 1
                ledger.known["content", sha256(data)] = {}
            except grpc.RpcError as error:
                if error.code() != grpc.StatusCode.ALREADY_EXISTS:
                    yield f"ingest {ref} of {acknowledged} bytes cannot be resumed: {_told(error)}"
        ledger.pending, ledger.imported, ledger.atomic = {}, False, False

    # --- After one collection ------------------------------------------------------------------------

    def _collect(self, channel: grpc.Channel) -> Iterator[str]:
        for ledger in self._ledgers:
            api = Api(channel, ledger.namespace)
            # Those of imports that died with the daemon; they would end by themselves in a day.
            for key in ledger.of("lease"):
                if ledger.known[key] > time.time() + 3600 and ledger.known[key] != LASTING:
                    api.delete_lease(key[1], sync=False)
        Api(channel, self._ledgers[0].namespace).collect("verify")
        for ledger in self._ledgers:
            api = Api(channel, ledger.namespace)
            before = time.time()
            seen = api.observe()
            kept = reachable(seen, {}, time.time())
            most = reachable({**seen, **self._promised(ledger)}, {}, before - 60)
            for key, _ in sorted(seen.items()):
                if key[0] in {"content", "snapshot"} and key not in most:
                    keepers = Disk(self._daemon.root).keepers(ledger.namespace, key)
                    yield f"{ledger.namespace}: {key} outlived a collection; what refers to it: {keepers}"
            # A commit that was refused halfway is finished with the next change, which the collection was.
            data = {
                key: value
                for key, value in ledger.known.items()
                if key[0] in {"content", "snapshot"} and key not in ledger.unsure
            }
            for key in reachable({**data, **seen}, ledger.edges, time.time()) - seen.keys():
                yield f"{ledger.namespace}: {key} was collected though it is reachable"
            for key in kept:
                if key[0] == "content":
                    yield from self._hash(api, key[1])
            yield from self._use(api, seen)
            ledger.unsure.clear()
            ingests = {key: value for key, value in ledger.known.items() if key[0] == "ingest"}
            ledger.known = {**seen, **ingests}
            for key in [key for key in ingests if key not in reachable(ledger.known, {}, time.time())]:
                del ledger.known[key]
        yield from Disk(self._daemon.root).check(self._ledgers)
        for point in mounts_under(self._daemon.root):
            yield f"mounted: {point}"

    def _promised(self, ledger: Ledger) -> dict[Key, Any]:
        """What ingests stand for, as a lease on it: those of a pull that died are kept for a day."""
        rows = Disk(self._daemon.root).promised(ledger.namespace)
        held: dict[Key, Any] = {("held", "ingests", "content", digest): True for digest in rows}
        return {("lease", "ingests"): LASTING, **held}

    @staticmethod
    def _use(api: Api, seen: Mapping[Key, Any]) -> Iterator[str]:
        """Ask how to mount each snapshot that is not committed.

        After a power cut its row may be on the disk and its folder not: SQLite's log, once it is written over
        from its beginning, reaches the disk without what the filesystem was told before. What was in the
        folder was not synced by anybody, or else the folder were there; so the snapshotter makes it again, as
        it was at first, when somebody uses it. Then it has to be there as every other.
        """
        for key, value in sorted(seen.items()):
            if key[0] == "snapshot" and value[0] != COMMITTED:
                try:
                    api.mounts(key[1], key[2])
                except grpc.RpcError as error:
                    yield f"{key} cannot be mounted: {_told(error)}"

    def _hash(self, api: Api, digest: str) -> Iterator[str]:
        try:
            data = api.read(digest)
        except grpc.RpcError as error:
            yield f"content {digest} cannot be read: {_told(error)}"
            return
        self.hashed += 1
        name, _, value = digest.partition(":")
        if hashlib.new(name, data).hexdigest() != value:
            yield f"content {digest} has {len(data)} other bytes"


class Disk:
    """The daemon's root folder, against its databases."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def check(self, ledgers: Sequence[Ledger]) -> Iterator[str]:
        """What is there and should not be, or the other way round."""
        rows = self._query(self._root / "metadata.db", "SELECT digest FROM contents")
        digests = {digest for (digest,) in rows}
        store = self._root / "content" / "content"
        blobs = {f"{path.parent.name}:{path.name}" for path in store.glob("blobs/*/*")}
        refs = self._query(self._root / "metadata.db", "SELECT backend_ref, expected FROM ingests")
        # An ingest of a blob that another namespace had keeps the bytes, not the name.
        promised = {expected for _, expected in refs if expected}
        yield from (f"blob {name} has no metadata" for name in blobs - digests - promised)
        yield from (f"blob {name} has no file" for name in (digests | promised) - blobs)
        folders = {path.name for path in (store / "ingest").iterdir()}
        known = {hashlib.sha256(ref.encode()).hexdigest() for ref, _ in refs}
        yield from (f"ingest {name} has no metadata" for name in folders - known)
        for name in SNAPSHOTTERS:
            yield from self._snapshotter(name, self._root / "snapshotter" / name, ledgers)
        for table in ("garbage", "snapshot_commits"):
            for row in self._query(self._root / "metadata.db", f"SELECT * FROM {table}"):
                yield f"{table} has {row}"
        for path in self._root.rglob("*"):
            if _TEMPORARY.search(path.name):
                yield f"temporary file {path.relative_to(self._root)}"
        extra = {path.name.partition(".db")[0] for path in self._root.iterdir()} - _TOP
        yield from (f"unknown {name} in the root" for name in extra)

    def promised(self, namespace: str) -> list[str]:
        """The blobs that ingests stand for, which another namespace had brought."""
        sql = "SELECT expected FROM ingests WHERE namespace = ? AND expected <> ''"
        return [row[0] for row in self._query(self._root / "metadata.db", sql, (namespace,))]

    def keepers(self, namespace: str, key: Key) -> list[tuple[str, str]]:
        """What the graph of references has that points at a blob or snapshot, with its owner."""
        name = key[1] if key[0] == "content" else f"{key[1]}/{key[2]}"
        letter = key[0][0]
        return self._query(
            self._root / "metadata.db",
            "SELECT source, owner FROM edges WHERE namespace = ?1 AND target IN (?2, ?3)"
            " UNION ALL SELECT 'root', node FROM roots WHERE namespace = ?1 AND node = ?2",
            (namespace, f"{letter}:{name}", f"{letter.upper()}:{name}"),
        )

    def _snapshotter(self, name: str, folder: Path, ledgers: Sequence[Ledger]) -> Iterator[str]:
        rows = self._query(folder / "snapshots.db", "SELECT id, key, kind FROM snapshots")
        known = dict(
            self._query(
                self._root / "metadata.db",
                f"SELECT backend_key, namespace || '/' || key FROM snapshots WHERE snapshotter = '{name}'",
            )
        )
        yield from (f"{name} has {key}, nobody else" for _, key, _ in rows if key not in known)
        yield from (f"{name} has lost {key}" for key in known.keys() - {key for _, key, _ in rows})
        folders = {path.name for path in (folder / "snapshots").iterdir()}
        ids = {str(number) for number, _, _ in rows}
        yield from (f"{name}'s folder {each} has no row" for each in folders - ids)
        yield from (f"{name}'s row {each} has no folder" for each in ids - folders)
        yield from (f"{name}'s trash has {path.name}" for path in (folder / "trash").iterdir())
        by_key = {known.get(key, ""): str(number) for number, key, _ in rows}
        for ledger in ledgers:
            for (snapshotter, key), files in ledger.files.items():
                value = ledger.known.get(("snapshot", snapshotter, key))
                if snapshotter == name and value:
                    own = folder / "snapshots" / by_key[f"{ledger.namespace}/{key}"] / "fs"
                    sure = files
                    if value[0] != COMMITTED:
                        # What a client put into an active snapshot is its own to sync.
                        sure = ledger.bases.get((snapshotter, key), {})
                        for file in [
                            file for file in files if list(self._files(own, {file: files[file]}, ""))
                        ]:
                            del files[file]
                    yield from self._files(own, sure, f"{name} snapshot {key}")

    @staticmethod
    def _files(folder: Path, files: Mapping[str, str], what: str) -> Iterator[str]:
        for file, digest in files.items():
            path = folder / file
            if not path.exists():
                yield f"{what} has lost {file}"
            elif sha256(path.read_bytes()) != digest:
                yield f"{what}: {file} has other bytes, {os.stat(path).st_size} of them"  # noqa: PTH116

    @staticmethod
    def _query(path: Path, sql: str, values: Sequence[str] = ()) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
            [(state,)] = connection.execute("PRAGMA quick_check(1)").fetchall()
            assert state == "ok", f"{path.name}: {state}"
            return connection.execute(sql, values).fetchall()


_TOP = {
    *("metadata", "events", "lock", "lost+found", "uuid"),
    *("containers", "content", "differ", "mount_handler", "resolver", "runtime"),
    *("snapshotter", "verifier"),
}


def _same(value: Any, expected: Any) -> bool:
    return value == expected or (expected is ANY and value is not None)


def _told(error: grpc.RpcError) -> str:
    return f"{error.code().name}: {error.details()}"


__all__ = ["KEPT", "Disk", "Verifier"]
