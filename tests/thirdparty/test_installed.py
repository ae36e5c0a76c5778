"""Somebody else's snapshotter, installed with pip into an environment of its own, and one dropped in."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.daemon import Daemon
from tests.support.images import save_archive
from tests.thirdparty.conftest import Install

HERE = Path(__file__).parent


@pytest.mark.timeout(240)
def test_it_is_listed_and_runs_a_container(install: Install, tmp_path: Path) -> None:
    install(HERE)
    drop_in = (HERE / "drop-in" / "plain.py").read_text()
    image = str(save_archive(tmp_path / "probe.tar", "docker.io/library/probe:latest"))
    with Daemon("[plugins.snapshotter.copies]\nreflink = 'never'", plugins={"plain.py": drop_in}) as daemon:
        listed = {
            line.split()[1]: line.split()[2:] for line in daemon.must(daemon.orlop("plugins")).splitlines()
        }
        assert listed["copies"][:3] == ["ok", "orlop-snapshotter-copies", "0.1.0"]
        assert listed["plain"][0] == "ok"
        daemon.must(daemon.orlop("import", image))
        for name in ("copies", "plain"):
            run = ("run", "-i", "--rm", "--snapshotter", name, "probe", "sh")
            done = daemon.orlop(*run, stdin="echo on $((40+2)); exit 7\n")
            assert (done.returncode, done.stdout) == (7, b"on 42\n")
