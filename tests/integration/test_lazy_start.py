"""A container on layers that a remote snapshotter has by itself, in the daemon and over a proxy's socket."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon import Daemon
from tests.support.images import busybox_layer, make_image, text_layer
from tests.support.registry import Registry, registry
from tests.support.served import serve_plugin

PAGE = Path(__file__).parent.parent / "thirdparty" / "drop-in" / "remote.py"


@pytest.fixture(scope="module")
def server() -> Iterator[Registry]:
    with registry() as running:
        yield running


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder whose path is short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="orlop-lazy-", dir="/tmp") as name:
        (Path(name) / "plugins").mkdir()
        (Path(name) / "plugins" / "remote.py").write_text(PAGE.read_text())
        yield Path(name)


def config(folder: Path) -> str:
    trees = folder / "trees"
    trees.mkdir(exist_ok=True)
    return (
        f'plugin_dirs = ["{folder}/plugins"]\nrequired_plugins = ["snapshotter.remote"]\n'
        f'[plugins.snapshotter.remote]\ntrees = "{trees}"\n'
    )


def check(daemon: Daemon, server: Registry, folder: Path, snapshotter: str) -> None:
    image = make_image(
        [busybox_layer(), text_layer("lazy", f"fetched {snapshotter}"), text_layer("late", snapshotter)]
    )
    name = server.push(f"lazy/{snapshotter}:1", image)
    tree = folder / "trees" / image.layers[1].replace(":", "-")
    tree.mkdir()
    (tree / "lazy").write_text("by itself\n")
    # The first layer is not there remotely, so all above it come: the order is the unpacker's.
    daemon.must(daemon.orlop("pull", "-q", "--snapshotter", snapshotter, name))
    assert [server.fetched(layer) for layer in image.layers[1:]] == [1, 1]
    said = daemon.orlop("run", "--rm", "--snapshotter", snapshotter, name, "cat", "/lazy", "/late")
    assert daemon.must(said) == f"by itself\n{snapshotter}"
    # With the first one here as a snapshot, nothing of the second is fetched.
    other = make_image(
        [
            busybox_layer(),
            text_layer("lazy", f"never {snapshotter}"),
            text_layer("last", f"last {snapshotter}"),
        ]
    )
    tree = folder / "trees" / other.layers[1].replace(":", "-")
    tree.mkdir()
    (tree / "lazy").write_text("lazily\n")
    name = server.push(f"lazy/{snapshotter}:2", other)
    said = daemon.orlop("run", "--rm", "--snapshotter", snapshotter, name, "cat", "/lazy", "/last")
    assert daemon.must(said) == f"lazily\nlast {snapshotter}"
    assert [server.fetched(layer) for layer in other.layers[1:]] == [0, 1]
    shown = daemon.must(daemon.ctr("snapshots", "--snapshotter", snapshotter, "ls"))
    assert len(shown.splitlines()) == 1 + 3 + 2


def test_a_drop_in_page(folder: Path, server: Registry) -> None:
    with Daemon(config(folder)) as daemon:
        check(daemon, server, folder, "remote")


def test_a_proxy_on_a_socket(folder: Path, server: Registry) -> None:
    (folder / "config.toml").write_text(config(folder))
    with serve_plugin("remote", folder, "--config", str(folder / "config.toml")) as socket:
        proxy = f'[proxy_plugins.far]\ntype = "snapshot"\naddress = "{socket}"\n'
        with Daemon(proxy) as daemon:
            check(daemon, server, folder, "far")


def test_blobs_are_dropped_where_the_config_says_so(server: Registry) -> None:
    image = make_image([busybox_layer(), text_layer("thin", "thin")])
    name = server.push("lazy/thin:1", image)
    with Daemon("discard_unpacked = true\n") as daemon:
        assert daemon.must(daemon.orlop("run", "--rm", name, "cat", "/thin")) == "thin"
        daemon.must(daemon.orlop("system", "prune"))
        config_digest = image.document()["config"]["digest"]
        kept = {line.split()[0] for line in daemon.must(daemon.ctr("content", "ls")).splitlines()[1:]}
        assert kept == {image.digest, config_digest}
        assert "linux/" in daemon.must(daemon.orlop("images"))
        assert daemon.must(daemon.orlop("run", "--rm", "--pull", "never", name, "cat", "/thin")) == "thin"
        daemon.must(daemon.orlop("system", "fsck"))
        refused = daemon.orlop("push", "-q", "--plain-http", name, f"{server.address}/elsewhere/thin:1")
        assert refused.returncode != 0
        assert b"not all here" in refused.stderr
        refused = daemon.orlop("run", "--rm", "--snapshotter", "vfs", name, "true")
        assert refused.returncode != 0
        assert b"not all here" in refused.stderr
        daemon.must(daemon.orlop("pull", "-q", "--keep-unpacked", name))
        daemon.must(daemon.orlop("push", "-q", name, f"{server.address}/elsewhere/thin:1"))
