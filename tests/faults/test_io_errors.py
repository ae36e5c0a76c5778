"""A daemon whose disk fails: it says so, goes on reading what can be read, and recovers with the disk."""

from __future__ import annotations

import resource
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest

from tests.support.daemon import Daemon

from .api import Api
from .clients import payload, sha256
from .disks import Ext4, Tmpfs
from .verify import Disk

MIB = 1 << 20
ROOT = {"containerd.io/gc.root": "x"}
DATA = payload(7)
BROKEN = (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNAVAILABLE)


@contextmanager
def started(daemon: Daemon) -> Iterator[Api]:
    daemon.start()
    try:
        with daemon.channel() as channel:
            yield Api(channel, "errors")
    finally:
        if daemon.running:
            daemon.kill9()


@contextmanager
def told(*codes: grpc.StatusCode) -> Iterator[None]:
    """An error of one of these codes, in words of its own."""
    with pytest.raises(grpc.RpcError) as raised:
        yield
    said = str(raised.value.details())
    assert raised.value.code() in codes, said
    assert "internal error" not in said


def clean(daemon: Daemon, api: Api) -> list[str]:
    api.collect(f"clean-{secrets.token_hex(4)}")
    return list(Disk(daemon.root).check([]))


def test_writes_that_the_kernel_refuses() -> None:
    large = secrets.token_bytes(2 * MIB)
    with Daemon() as daemon, daemon.channel() as channel:
        api = Api(channel, "errors")
        api.put("kept", DATA, sha256(DATA), labels=ROOT)
        # No file may grow beyond this: EFBIG from every write, of the databases too.
        limits = resource.prlimit(daemon.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(daemon.pid, resource.RLIMIT_FSIZE, (16 << 10, limits[1]))
        try:
            with told(grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE):
                api.put("large", large, sha256(large), labels=ROOT)
            with told(grpc.StatusCode.UNAVAILABLE):
                for number in range(1000):
                    api.create_image(f"image-{number}", sha256(DATA))
            with told(grpc.StatusCode.UNAVAILABLE):
                for number in range(1000):
                    api.prepare("vfs", f"key-{number}", "", labels=ROOT)
            assert api.read(sha256(DATA)) == DATA
        finally:
            resource.prlimit(daemon.pid, resource.RLIMIT_FSIZE, limits)
        api.put("large", large, sha256(large), labels=ROOT)
        api.create_image("afterwards", sha256(large))
        api.prepare("vfs", "afterwards", "", labels=ROOT)
        assert clean(daemon, api) == []
        assert api.read(sha256(large)) == large


def test_a_filesystem_that_went_read_only(tmp_path: Path) -> None:
    daemon = Daemon()
    codes = (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.FAILED_PRECONDITION, *BROKEN)
    try:
        with Ext4(daemon.folder / "disk", daemon.root, 64) as disk:
            with started(daemon) as api:
                api.put("kept", DATA, sha256(DATA), labels=ROOT)
                api.create_image("kept", sha256(DATA))
                seen = api.observe()
                disk.break_down()
                with told(*codes):
                    api.put("other", DATA[::-1], sha256(DATA[::-1]), labels=ROOT)
                with told(*codes):
                    api.create_image("other", sha256(DATA))
                with told(*codes):
                    api.prepare("overlayfs", "key", "", labels=ROOT)
                with told(*codes):
                    api.delete_content(sha256(DATA))
                assert api.read(sha256(DATA)) == DATA
                assert api.observe() == seen
                daemon.check_health()
                daemon.stop()
            disk.mend()
            with started(daemon) as api:
                assert api.observe() == seen
                assert api.read(sha256(DATA)) == DATA
                assert clean(daemon, api) == []
                api.delete_content(sha256(DATA))
                daemon.stop()
    finally:
        daemon.remove()


def test_a_disk_that_loses_what_is_written(tmp_path: Path) -> None:
    """Its free blocks cannot be written, as on a thin volume: write(2) succeeds, fsync(2) fails, and once."""
    large = secrets.token_bytes(4 * MIB)
    daemon = Daemon()
    memory = Tmpfs(tmp_path / "memory", 80)
    try:
        with memory, Ext4(tmp_path / "memory" / "disk", daemon.root, 64, solid=True) as disk:
            with started(daemon) as api:
                api.put("kept", DATA, sha256(DATA), labels=ROOT)
                api.create_lease("lease")
                disk.discard()
                memory.fill()
                with told(grpc.StatusCode.RESOURCE_EXHAUSTED, *BROKEN):
                    api.put("large", large, sha256(large), lease="lease", labels=ROOT)
                assert ("content", sha256(large)) not in api.observe()
                assert api.read(sha256(DATA)) == DATA
                memory.free()
                api.put("large", large, sha256(large), lease="lease", labels=ROOT)
                assert api.read(sha256(large)) == large
                assert clean(daemon, api) == []
                seen = api.observe()
            disk.cut()
            disk.mend()
            with started(daemon) as api:
                assert api.observe() == seen
                assert api.read(sha256(large)) == large
                daemon.stop()
    finally:
        daemon.remove()
