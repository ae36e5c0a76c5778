"""Proxy plugins both ways: ours in a stock containerd, and those of other processes in orlopd."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.containerd import containerd
from tests.support.daemon import BIN, Daemon, eventually
from tests.support.images import busybox_layer, make_image, save_archive, text_layer
from tests.support.served import serve_plugin

IMAGE = "docker.io/library/probe:latest"
SAY = ("sh", "-c", "cat /etc/motd; echo mine >/etc/motd; rm /bin/true; ls /bin/true; echo $((40 + 2))")


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder whose path is short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="orlop-proxy-", dir="/tmp") as name:
        yield Path(name)


@pytest.fixture
def archive(folder: Path) -> str:
    layers = [busybox_layer(), text_layer("etc/motd", "hello\n"), text_layer("etc/.wh.hostname", "")]
    return str(save_archive(folder / "image.tar", IMAGE, image=make_image(layers)))


def ctr(address: str, *words: str) -> str:
    done = subprocess.run(
        ["ctr", "-a", address, "-n", "proxied", *words],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, (words, done.stdout, done.stderr)
    return done.stdout


def proxy(name: str, type: str, address: str, *lines: str) -> str:
    more = "".join(f"{line}\n" for line in lines)
    return f'[proxy_plugins.{name}]\ntype = "{type}"\naddress = "{address}"\n{more}'


@pytest.mark.timeout(240)
@pytest.mark.parametrize("id", ["vfs", "overlayfs", "erofs"])
def test_a_stock_containerd_runs_containers_on_our_snapshotters(id: str, folder: Path, archive: str) -> None:
    name = f"orlop-{id}"
    with serve_plugin(id, folder) as socket, containerd(more=proxy(name, "snapshot", socket)) as peer:
        assert f"io.containerd.snapshotter.v1    {name} " in ctr(peer.address, "plugins", "ls")
        ctr(peer.address, "images", "import", "--snapshotter", name, archive)
        run = ("run", "--rm", "--snapshotter", name, IMAGE)
        said = ctr(peer.address, *run, "one", *SAY)
        assert said.splitlines()[0] == "hello"
        assert said.splitlines()[-1] == "42"
        # The next one sees nothing of it, and the whiteout of a layer was carried out.
        assert (
            ctr(peer.address, *run, "two", "sh", "-c", "cat /etc/motd; ls /etc")
            == "hello\ngroup\nmotd\npasswd\n"
        )
        listed = ctr(peer.address, "snapshots", "--snapshotter", name, "ls").splitlines()[1:]
        assert [line.split()[-1] for line in listed] == ["Committed"] * 3
        # What containerd collects goes here too.
        ctr(peer.address, "images", "rm", "--sync", IMAGE)
        assert ctr(peer.address, "snapshots", "--snapshotter", name, "ls").splitlines()[1:] == []
        kept = folder / "root" / "served" / f"snapshotter.{id}" / "snapshotter" / id / "snapshots"
        assert eventually(lambda: list(kept.iterdir()), lambda found: not found, 30) == []


@pytest.mark.timeout(240)
def test_a_stock_containerd_keeps_its_content_in_our_store(folder: Path, archive: str) -> None:
    with (
        serve_plugin("content.content", folder, address=str(folder / "c.sock")) as socket,
        containerd(
            more=proxy("orlop", "content", socket), disabled=["io.containerd.content.v1.content"]
        ) as peer,
    ):
        ctr(peer.address, "images", "import", archive)
        assert ctr(peer.address, "run", "--rm", IMAGE, "one", *SAY).splitlines()[-1] == "42"
        assert len(ctr(peer.address, "content", "ls").splitlines()) >= 6
        kept = folder / "root" / "served" / "content.content" / "content" / "content" / "blobs" / "sha256"
        assert len(list(kept.iterdir())) >= 5
        assert not list((peer.folder / "root").glob("io.containerd.content.v1.content/blobs/sha256/*"))


@pytest.mark.timeout(240)
def test_a_proxy_may_come_late_go_away_and_come_back(folder: Path, archive: str) -> None:
    socket = folder / "vfs.sock"
    with Daemon(proxy("far", "snapshot", str(socket))) as daemon:
        listed = {
            line.split()[1]: line.split()[2] for line in daemon.must(daemon.orlop("plugins")).splitlines()
        }
        assert listed["far"] == "ok"
        run = ("run", "--rm", "--snapshotter", "far", "probe")
        daemon.must(daemon.orlop("import", archive))
        early = daemon.orlop(*run, *SAY)
        assert early.returncode != 0
        assert f"proxy plugin far cannot be reached at {socket}".encode() in early.stderr
        with serve_plugin("vfs", folder):
            assert daemon.must(daemon.orlop(*run, *SAY)).startswith("hello\n")
        away = daemon.orlop(*run, "true")
        assert away.returncode != 0
        assert b"cannot be reached" in away.stderr
        with serve_plugin("vfs", folder):
            assert daemon.must(daemon.orlop(*run, *SAY)).endswith("42\n")
            daemon.must(daemon.orlop("rmi", "probe"))
            daemon.must(daemon.orlop("system", "prune"))
            assert daemon.must(daemon.ctr("snapshots", "--snapshotter", "far", "ls")).splitlines()[1:] == []


@pytest.mark.timeout(240)
def test_a_differ_in_another_process_reads_and_writes_our_content(folder: Path, archive: str) -> None:
    socket = folder / "walking.sock"
    config = 'differs = ["far"]\n' + proxy("far", "diff", str(socket))
    with Daemon(config) as daemon:
        with serve_plugin("walking", folder, "--content", daemon.address):
            daemon.must(daemon.orlop("import", archive))
            assert daemon.must(daemon.orlop("run", "--rm", "probe", *SAY)).endswith("42\n")
            # It writes there, too, and the second time what is there already.
            keys = [line.split()[0] for line in daemon.must(daemon.ctr("snapshots", "ls")).splitlines()[1:]]
            for key in keys:
                made = [daemon.ctr("snapshots", "diff", "--keep", key) for _ in range(2)]
                assert [each.returncode for each in made] == [0, 0], made
                assert made[0].stdout == made[1].stdout != b""
        late = text_layer("etc/late", "late\n")
        other = save_archive(folder / "late.tar", "docker.io/library/late:latest", image=make_image([late]))
        refused = daemon.orlop("import", str(other))
        assert b"proxy plugin far cannot be reached" in refused.stderr


def test_a_type_that_nobody_offers_is_an_error_of_the_config(folder: Path) -> None:
    config = folder / "config.toml"
    config.write_text(proxy("far", "snapshots", "/nowhere.sock"))
    done = subprocess.run(
        [BIN / "orlopd", "--config", config, "plugins"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 2
    assert 'line 2: section [proxy_plugins.far]: no plugin offers the type "snapshots"' in done.stderr
    assert 'did you mean "snapshot"?' in done.stderr


def test_serving_names_what_there_is(folder: Path) -> None:
    places = ["--root", folder / "r", "--state", folder / "s", "--address", folder / "x.sock"]
    done = subprocess.run(
        [BIN / "orlopd", "serve-plugin", "overlay", *places],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 1
    assert 'orlopd: "overlay" is no part that can be served; did you mean "overlayfs"?' in done.stderr
    assert not (folder / "r").exists()
