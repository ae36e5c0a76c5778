"""Somebody else's snapshotter, installed with pip into an environment of its own, and one dropped in."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import tests.support.daemon
from tests.support.daemon import Daemon
from tests.support.images import save_archive

HERE = Path(__file__).parent
PROGRAMS = ("orlopd", "orlop", "orlop-shim")


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A scratch environment over the one the tests run in, with the distribution installed."""
    own = Path(sys.executable).parent
    scratch = tmp_path / "environment"
    python = scratch / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", scratch], check=True, timeout=60)
    packages = next(scratch.glob("lib/python*/site-packages"))
    base = next(own.parent.glob("lib/python*/site-packages"))
    (packages / "base.pth").write_text(f"import site; site.addsitedir({str(base)!r})\n")
    install = ["pip", "install", "--offline", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([own / "uv", *install, "--python", python, HERE], check=True, timeout=120)
    for name in PROGRAMS:
        program = scratch / "bin" / name
        program.write_text(f"#!{python}\n" + (own / name).read_text().partition("\n")[2])
        program.chmod(0o755)
    monkeypatch.setattr(tests.support.daemon, "BIN", scratch / "bin")
    return scratch


@pytest.mark.timeout(240)
def test_it_is_listed_and_runs_a_container(environment: Path, tmp_path: Path) -> None:
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
