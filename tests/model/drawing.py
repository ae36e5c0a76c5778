"""What the walk draws from: a few names of each kind, so that calls meet one another."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from tests.model.model import TARGET

SNAPSHOTTER = "overlayfs"
REFERENCE = "containerd.io/gc.ref.content.l.0"

BLOBS = range(6)
LEASES = ("l0", "l1", "l2")
IMAGES = ("i0", "i1", "i2")
KEYS = ("s0", "s1", "s2", "s3", "s4")
REFS = ("r0", "r1", "r2")
CONTAINERS = ("k0", "k1")

GC = "containerd.io/gc."
TIMES = ("2020-01-01T00:00:00Z", "2020-02-01T12:00:00.25+02:00", "2999-01-01T00:00:00Z", "yesterday")


def labels_of(*kinds: tuple[str, st.SearchStrategy[Any]], most: int = 3) -> st.SearchStrategy[Any]:
    pair = st.one_of(*(st.tuples(st.just(key), value) for key, value in kinds))
    return st.lists(pair, max_size=most, unique_by=lambda each: each[0])


BLOB = st.sampled_from(BLOBS)
DIGEST = st.tuples(st.just("blob"), BLOB)
_PLAIN = (("plain", st.sampled_from(["1", "2", ""])), ("other", st.just("1")))
OBJECT_LABELS = labels_of(
    (f"{GC}root", st.just("1")),
    (f"{GC}root.x", st.just("1")),
    (REFERENCE, DIGEST),
    (f"{GC}ref.content", DIGEST),
    (f"{GC}ref.contents", DIGEST),
    (f"{GC}ref.image/x", st.sampled_from(IMAGES)),
    (f"{GC}ref.snapshot.{SNAPSHOTTER}", st.sampled_from(KEYS)),
    (f"{GC}ref.snapshot.{SNAPSHOTTER}/x", st.sampled_from(KEYS)),
    (f"{GC}bref.content.a", DIGEST),
    (f"{GC}bref.image", st.sampled_from(IMAGES)),
    (f"{GC}bref.snapshot.{SNAPSHOTTER}", st.sampled_from(KEYS)),
    (f"{GC}bref.container", st.sampled_from(CONTAINERS)),
    *_PLAIN,
)
IMAGE_LABELS = st.one_of(OBJECT_LABELS, labels_of((f"{GC}expire", st.sampled_from(TIMES)), *_PLAIN))
_FLAT = (f"{GC}flat", st.just("1"))
LEASE_LABELS = st.one_of(
    labels_of((f"{GC}expire", st.sampled_from(TIMES)), _FLAT, *_PLAIN, most=2),
    labels_of(_FLAT, *_PLAIN, most=1),
)
SNAPSHOT_LABELS = st.one_of(OBJECT_LABELS, labels_of((TARGET, st.sampled_from(KEYS)), *_PLAIN))
MASKS = st.sampled_from(["", "", "labels", "keys", "keys", "keys", "size"])

ROOM = st.sampled_from([0, 0, 1])
LEASE = st.sampled_from(["", "", "", *LEASES])
SYNC = st.booleans()
NAME = st.one_of(
    DIGEST, st.sampled_from(KEYS), st.sampled_from([*REFS, *CONTAINERS]), st.just("the namespace")
)
RESOURCES = st.one_of(
    st.tuples(st.just("content"), DIGEST),
    st.tuples(st.just("images"), st.sampled_from(IMAGES)),
    st.tuples(st.just("ingests"), st.sampled_from(REFS)),
    st.tuples(st.just(f"snapshots/{SNAPSHOTTER}"), st.sampled_from(KEYS)),
    st.tuples(st.sampled_from(["volumes", "snapshots", "images/x"]), st.just("r")),
)


def _call(method: str, **drawn: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.tuples(st.just(method), st.fixed_dictionaries({"room": ROOM, **drawn}))


_AT_ONCE = st.one_of(
    _call("put", lease=LEASE, blob=BLOB, labels=OBJECT_LABELS, named=st.booleans()),
    _call("put", lease=LEASE, blob=st.sampled_from(BLOBS[:2]), labels=st.just([]), named=st.booleans()),
    _call("label", blob=BLOB, labels=OBJECT_LABELS, mask=MASKS),
    _call("delete_content", lease=LEASE, blob=BLOB),
    _call("abort", lease=LEASE, ref=st.sampled_from(REFS)),
    _call("create_image", lease=LEASE, name=st.sampled_from(IMAGES), blob=BLOB, labels=IMAGE_LABELS),
    _call("update_image", lease=LEASE, name=st.sampled_from(IMAGES), blob=BLOB, labels=IMAGE_LABELS),
    _call("delete_image", lease=LEASE, name=st.sampled_from(IMAGES)),
    _call("create_lease", id=st.sampled_from(LEASES), labels=LEASE_LABELS),
    _call("delete_lease", id=st.sampled_from(LEASES)),
    _call("add_resource", id=st.sampled_from(LEASES), resource=RESOURCES),
    _call("delete_resource", id=st.sampled_from(LEASES), resource=RESOURCES),
    _call(
        "prepare",
        lease=LEASE,
        key=st.sampled_from(KEYS),
        parent=st.sampled_from(["", *KEYS]),
        labels=OBJECT_LABELS,
    ),
    _call("commit", lease=LEASE, name=st.sampled_from(KEYS), key=st.sampled_from(KEYS), labels=OBJECT_LABELS),
    _call("remove_snapshot", lease=LEASE, key=st.sampled_from(KEYS)),
    _call(
        "create_container", id=st.sampled_from(CONTAINERS), key=st.sampled_from(KEYS), labels=OBJECT_LABELS
    ),
    _call("delete_container", id=st.sampled_from(CONTAINERS)),
    _call("delete_namespace"),
    _call("collect"),
    _call("collect"),
)
CALLS_AT_ONCE = st.one_of(
    st.lists(_AT_ONCE, min_size=2, max_size=5),
    # Who wants the same at the same time.
    st.tuples(st.lists(_AT_ONCE, max_size=2), _AT_ONCE, st.integers(2, 3)).map(
        lambda drawn: [*drawn[0], *[drawn[1]] * drawn[2]]
    ),
)
"""Calls to be made at once, by name."""
