"""What a client was told, so that it can be compared with what is there after a crash."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc

Key = tuple[str, ...]
"""Kind and names: ("image", NAME), ("content", DIGEST), ("snapshot", SNAPSHOTTER, KEY), ("lease", ID),
("held", LEASE, TYPE, ID), ("ingest", REF)."""

ANY = object()
"""Labels that the daemon chose itself."""

LASTING = float("inf")
"""The expiry of a lease that has none; of the others it is seconds since 1970."""

PREFIX = "containerd.io/gc."
UNSURE = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.DEADLINE_EXCEEDED,
}
"""Codes that leave open whether a call was carried out."""


class Died(Exception):
    """The daemon went away during a call."""


class Dying:
    """Set a moment before the daemon is cut off: from then on every refusal leaves things open."""

    def __init__(self) -> None:
        self.now = False


@dataclass
class Ledger:
    """One namespace as its only client was told it is.

    A call in flight is in ``pending`` with what it makes of each object; None is "not there".
    """

    namespace: str
    dying: Dying = field(default_factory=Dying)
    known: dict[Key, Any] = field(default_factory=dict)
    pending: dict[Key, Any] = field(default_factory=dict)
    atomic: bool = False
    """Whether ``pending`` happens as a whole or not at all."""
    imported: bool = False
    """Whether a call was made that makes objects of its own along the way."""
    unsure: set[Key] = field(default_factory=lambda: set[Key]())
    """Objects of which nothing is known."""
    edges: dict[str, list[str]] = field(default_factory=dict)
    """References of blobs whose labels are :data:`ANY`."""
    bytes: dict[str, bytes] = field(default_factory=dict)
    """What is being written, by ref."""
    expected: dict[str, str] = field(default_factory=dict)
    """The digests that writers name when they open a ref."""
    files: dict[tuple[str, str], dict[str, str]] = field(default_factory=dict)
    """The sha256 of the files in a snapshot's folder, by snapshotter and key, then name."""
    bases: dict[tuple[str, str], dict[str, str]] = field(default_factory=dict)
    """As ``files``, of those that were there from the first."""

    @contextmanager
    def change(self, effects: Mapping[Key, Any], *, atomic: bool = False) -> Generator[dict[Key, Any]]:
        """Around one call. What it is answered with becomes known; the block may correct ``effects``."""
        self.pending, self.atomic = dict(effects), atomic
        try:
            yield self.pending
        except grpc.RpcError as error:
            # Not known, not refused: the pending effects stay for who looks after the crash.
            if error.code() in UNSURE or self.dying.now:
                raise Died from error
            self.pending = {}
            raise
        self.learn(self.pending)
        self.pending = {}

    @contextmanager
    def doubtful(self, effects: Mapping[Key, Any], *, atomic: bool = False) -> Generator[None]:
        """Around a call of two steps: refused at the second, the first has happened."""
        try:
            with self.change(effects, atomic=atomic):
                yield
        except grpc.RpcError:
            for key in effects:
                self.known.pop(key, None)
            self.unsure |= effects.keys()
            raise

    def learn(self, effects: Mapping[Key, Any]) -> None:
        """Take what is certain."""
        for key, value in effects.items():
            if value is None:
                self.known.pop(key, None)
            else:
                self.known[key] = value

    def of(self, kind: str) -> list[Key]:
        """The known objects of a kind, in an order of their own."""
        return sorted(key for key in self.known if key[0] == kind)

    def reachable(self, margin: float = 3.0) -> set[Key]:
        """What collections must keep for ``margin`` seconds more, going by what is known."""
        return reachable(self.known, self.edges, time.time() + margin)


def reachable(objects: Mapping[Key, Any], edges: Mapping[str, list[str]], at: float) -> set[Key]:
    """What a collection at the time ``at`` keeps of ``objects``; containerd's rules, as far as used here."""
    pending = [key for key, value in objects.items() if _is_root(key, value, at)]
    found: set[Key] = set()
    held: dict[str, list[Key]] = {}
    for key in objects:
        if key[0] == "held":
            held.setdefault(key[1], []).append(_resource(key[2], key[3]))
    while pending:
        key = pending.pop()
        if key in found or key not in objects:
            continue
        found.add(key)
        pending += held.get(key[1], []) if key[0] == "lease" else _references(key, objects[key], edges)
    return found


def _is_root(key: Key, value: Any, at: float) -> bool:
    match key[0]:
        case "image":
            return True
        case "lease":
            return value > at
        case "content":
            return isinstance(value, dict) and f"{PREFIX}root" in value
        case "snapshot":
            return bool(value[2])
        case _:
            return False


def _resource(type: str, id: str) -> Key:
    word, _, snapshotter = type.partition("/")
    if word == "snapshots":
        return ("snapshot", snapshotter, id)
    return ({"content": "content", "ingests": "ingest", "images": "image"}[word], id)


def _references(key: Key, value: Any, edges: Mapping[str, list[str]]) -> Iterator[Key]:
    match key[0]:
        case "image":
            yield ("content", value)
        case "snapshot" if value[1]:
            yield ("snapshot", key[1], value[1])
        case "content":
            for digest in edges.get(key[1], ()):
                yield ("content", digest)
            for label, target in value.items() if isinstance(value, dict) else ():
                if label.startswith(f"{PREFIX}ref.content"):
                    yield ("content", target)
                elif label.startswith(f"{PREFIX}ref.snapshot."):
                    yield ("snapshot", label.removeprefix(f"{PREFIX}ref.snapshot.").partition("/")[0], target)
        case _:
            return
