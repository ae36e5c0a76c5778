"""A resolver of somebody else's, in the running daemon: references out of which it takes its own."""

from __future__ import annotations

from pathlib import Path

from tests.support.daemon import Daemon
from tests.support.images import busybox_layer, make_image, save_archive, text_layer

PAGE = Path(__file__).parent.parent / "thirdparty" / "drop-in" / "shelf.py"


def test_a_drop_in_page_has_the_references_that_look_like_its_own(tmp_path: Path) -> None:
    config = f'resolvers = ["shelf"]\n[plugins.resolver.shelf]\nfolder = "{tmp_path}"\n'
    with Daemon(config, plugins={"shelf.py": PAGE.read_text()}) as daemon:
        image = make_image([busybox_layer(), text_layer("motd", "off the shelf")])
        archive = save_archive(tmp_path / "a.tar", "shelf.invalid/team/app:1", image=image)
        [name] = daemon.must(daemon.orlop("import", archive)).split()
        assert daemon.must(daemon.orlop("push", "-q", name)) == f"{name} {image.digest}\n"
        assert {path.name for path in tmp_path.glob("sha256:*")} == set(image.blobs)
        daemon.must(daemon.orlop("rmi", name))
        assert daemon.must(daemon.orlop("run", "--rm", name, "cat", "/motd")) == "off the shelf"
        (tmp_path / image.layers[1]).write_bytes(b"something else")
        daemon.must(daemon.orlop("rmi", name))
        damaged = daemon.orlop("pull", name)
        assert (damaged.returncode, b"content does not match" in damaged.stderr) == (1, True)
        absent = daemon.orlop("pull", "shelf.invalid/absent")
        assert b"no shelf.invalid/absent:latest on the shelf" in absent.stderr
        # All others go on to the registries.
        assert b"cannot reach registry" in daemon.orlop("pull", "127.0.0.1:1/x").stderr
