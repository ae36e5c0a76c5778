"""Events of the past, why, df, prune and fsck through the real daemon and the real command."""

from __future__ import annotations

import json
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from orlop_protos.containerd.services.mounts.v1 import mounts_pb2_grpc
from orlop_protos.containerd.services.mounts.v1.mounts_pb2 import ActivateRequest, DeactivateRequest
from orlop_protos.containerd.types.mount_pb2 import Mount
from tests.support.daemon import Daemon, eventually, mounts_under, refused
from tests.support.images import busybox_layer, make_image, save_archive, text_layer

LABELS = "containerd.io/gc.root=1"


def ingest(daemon: Daemon, data: str) -> str:
    """Bring in a blob that is kept; its digest."""
    import hashlib

    digest = "sha256:" + hashlib.sha256(data.encode()).hexdigest()
    daemon.must(daemon.ctr("content", "ingest", f"ref-{digest[7:19]}", stdin=data))
    daemon.must(daemon.ctr("content", "label", digest, LABELS))
    return digest


def blob_path(daemon: Daemon, digest: str) -> Path:
    [found] = daemon.root.rglob(digest.removeprefix("sha256:"))
    return found


def written(daemon: Daemon, topic: str) -> int:
    """How many events of a topic are in the journal's file."""
    with closing(sqlite3.connect(daemon.root / "events.db")) as conn:
        [count] = conn.execute("SELECT count(*) FROM events WHERE topic = ?", (topic,)).fetchone()
    return count


def test_events_outlive_kill_9_and_are_told_again(fresh_daemon: Daemon) -> None:
    daemon = fresh_daemon
    digests = [ingest(daemon, f"blob {number}") for number in range(5)]
    # The writer needs a moment for what came last.
    eventually(lambda: written(daemon, "/content/create"), lambda count: count == len(digests), 20)
    daemon.kill9()
    daemon.start()
    lines = daemon.must(daemon.orlop("events", "--since", "10m", "--until", "0s", "--output", "json"))
    events = [json.loads(line) for line in lines.splitlines()]
    created = [each["event"]["digest"] for each in events if each["topic"] == "/content/create"]
    assert created == digests
    # Who asks from a time between is told the rest, and of no gap.
    middle = next(each["at"] for each in events if each["event"].get("digest") == digests[3])
    done = daemon.orlop("events", "--since", middle, "--until", "0s", "-f", "topic~=^/content/")
    assert [digest in done.stdout.decode() for digest in digests] == [False] * 3 + [True] * 2
    assert done.stderr == b""
    early = daemon.orlop("events", "--since", "2001-01-01T00:00:00Z", "--until", "0s")
    assert b"are missing: the journal of events does not go back further" in early.stderr
    for wrong in ("yesterday", "10x", "2024-13-01"):
        assert b"is no time" in daemon.orlop("events", "--since", wrong).stderr


def test_a_damaged_journal_does_not_stop_a_start(fresh_daemon: Daemon) -> None:
    fresh_daemon.stop()
    (fresh_daemon.root / "events.db").write_bytes(b"\xa5" * 100_000)
    fresh_daemon.start()
    assert (fresh_daemon.root / "events.db.damaged").exists()
    assert "journal of events is damaged" in fresh_daemon.log


def test_why_df_and_prune(fresh_daemon: Daemon) -> None:
    daemon = fresh_daemon
    digest = ingest(daemon, "kept")
    said = daemon.must(daemon.orlop("system", "why", digest[7:17]))
    assert said.splitlines()[0] == f"blob {digest} is kept by"
    assert "gc.root" in said
    line = next(
        line for line in daemon.must(daemon.orlop("system", "df", "-v")).splitlines() if digest in line
    )
    assert line.split()[0] == "blob"
    assert line.endswith(f"blob {digest}")
    assert "would free 0 B" in daemon.must(daemon.orlop("system", "prune", "--all", "--dry-run"))
    daemon.must(daemon.ctr("content", "rm", digest))
    gone = daemon.must(daemon.orlop("system", "why", digest))
    assert gone.startswith(f"blob {digest} is gone: deleted by name, ")
    done = daemon.orlop("system", "why", "sha256:" + "0" * 64)
    assert (done.returncode, b"does not remember one" in done.stderr) == (1, True)


def test_fsck_finds_and_mends(fresh_daemon: Daemon) -> None:
    daemon = fresh_daemon
    good, bad = ingest(daemon, "good"), ingest(daemon, "bad")
    assert "all is well" in daemon.must(daemon.orlop("system", "fsck"))
    blob_path(daemon, bad).write_bytes(b"BAD")
    (daemon.root / "containers" / daemon.namespace / "ghost").mkdir(parents=True)
    done = daemon.orlop("system", "fsck")
    assert done.returncode == 1
    assert f"BLOB_CORRUPT namespace {daemon.namespace}: blob {bad}" in done.stdout.decode()
    assert b"FOLDER_UNKNOWN" in done.stdout
    daemon.must(daemon.orlop("system", "fsck", "--repair"))
    assert "all is well" in daemon.must(daemon.orlop("system", "fsck"))
    assert (daemon.root / "quarantine" / bad.replace(":", "-")).read_bytes() == b"BAD"
    left = daemon.must(daemon.ctr("content", "ls", "-q")).split()
    assert left == [good]
    lines = daemon.must(daemon.orlop("system", "fsck", "--output", "json")).splitlines()
    assert json.loads(lines[-1])["summary"]["findings"] == 0


def test_fsck_unmounts_what_a_task_left_and_nothing_else(fresh_daemon: Daemon, tmp_path: Path) -> None:
    daemon, image = fresh_daemon, tmp_path / "layer.erofs"
    (tmp_path / "layer").mkdir()
    subprocess.run(["mkfs.erofs", "--quiet", image, tmp_path / "layer"], check=True, timeout=30)
    ghost = daemon.state / "runtime/some/tasks" / daemon.namespace / "ghost/rootfs"
    disk = daemon.root / "disk"  # of the operator's
    for place in (ghost, disk):
        place.mkdir(parents=True)
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", place], check=True)
    try:
        mounts: Any = mounts_pb2_grpc.MountsStub(daemon.channel())
        layer = Mount(type="erofs", source=str(image), options=["ro"])
        header = (("containerd-namespace", daemon.namespace),)
        kept = mounts.Activate(ActivateRequest(name="kept", mounts=[layer]), metadata=header, timeout=20).info
        found = daemon.orlop("system", "fsck").stdout.decode()
        assert [line for line in found.splitlines() if "MOUNT_UNKNOWN" in line and str(ghost) in line]
        daemon.must(daemon.orlop("system", "fsck", "--repair"))
        assert "all is well" in daemon.must(daemon.orlop("system", "fsck"))
        active = {each.mount_point for each in kept.active}
        assert set(mounts_under(daemon.folder)) == {str(disk), *active}
        mounts.Deactivate(DeactivateRequest(name="kept"), metadata=header, timeout=20)
    finally:
        for place in (ghost, disk):
            subprocess.run(["umount", place], capture_output=True)


@pytest.mark.parametrize("snapshotter", ["overlayfs", "erofs"])
def test_fsck_finds_nothing_amiss_in_what_works(
    fresh_daemon: Daemon, tmp_path: Path, snapshotter: str
) -> None:
    daemon, name = fresh_daemon, "docker.io/library/busy:1"
    image = make_image([busybox_layer(), text_layer("x", "x")])
    daemon.must(daemon.orlop("import", "--no-unpack", save_archive(tmp_path / "a.tar", name, image=image)))
    made = daemon.orlop("run", "-d", "--name", "works", "--snapshotter", snapshotter, name, "sleep", "60")
    daemon.must(made)
    try:
        assert "all is well" in daemon.must(daemon.orlop("system", "fsck"))
        daemon.must(daemon.orlop("system", "fsck", "--repair"))
        assert daemon.must(daemon.orlop("exec", "works", "cat", "/x")) == "x"
    finally:
        daemon.must(daemon.orlop("rm", "-f", "works"))
    assert "all is well" in daemon.must(daemon.orlop("system", "fsck"))


def test_a_bad_row_never_stops_a_start(fresh_daemon: Daemon) -> None:
    daemon = fresh_daemon
    good, bad = ingest(daemon, "good"), ingest(daemon, "bad")
    daemon.stop()
    with closing(sqlite3.connect(daemon.root / "metadata.db")) as conn:
        conn.execute("UPDATE contents SET labels = '{broken' WHERE digest = ?", (bad,))
        conn.commit()
    daemon.start()
    assert good in daemon.must(daemon.ctr("content", "ls", "-q"))
    done = daemon.orlop("system", "fsck")
    assert f"ROW_DAMAGED namespace {daemon.namespace}: blob {bad}: its labels cannot be read" in (
        done.stdout.decode()
    )
    daemon.must(daemon.orlop("system", "fsck", "--repair"))
    assert sorted(daemon.must(daemon.ctr("content", "ls", "-q")).split()) == sorted([good, bad])
    daemon.restart()
    daemon.must(daemon.ctr("leases", "create", "--id", "collect"))
    daemon.must(daemon.ctr("leases", "rm", "--sync", "collect"))
    assert bad in daemon.must(daemon.ctr("content", "ls", "-q"))


def test_a_damaged_or_newer_database_is_refused_in_a_line(fresh_daemon: Daemon) -> None:
    daemon = fresh_daemon
    daemon.stop()
    path = daemon.root / "metadata.db"
    with closing(sqlite3.connect(path)) as conn:
        conn.execute("PRAGMA user_version = 99")
    assert "schema version 99" in refused(daemon)[1]
    path.write_bytes(b"\xa5" * 50_000)
    before = path.read_bytes()
    code, said = refused(daemon)
    assert code != 0
    assert "is damaged" in said
    assert "backup" in said
    assert path.read_bytes() == before
