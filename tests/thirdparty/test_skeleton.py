"""What ``orlop plugin new`` writes is a distribution that works and that the kit is content with."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.support.daemon import BIN, Daemon
from tests.thirdparty.conftest import Install


def new(*words: str, where: Path) -> subprocess.CompletedProcess[str]:
    command = [BIN / "orlop", "plugin", "new", *words]
    return subprocess.run(command, cwd=where, capture_output=True, text=True, timeout=30, check=False)


@pytest.mark.timeout(400)
def test_a_new_snapshotter_is_right_from_the_start(install: Install, tmp_path: Path) -> None:
    done = new("snapshotter", "two-words", where=tmp_path)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "orlop-snapshotter-two-words"
    assert sorted(done.stdout.split()) == sorted(str(path.relative_to(tmp_path)) for path in folder.iterdir())
    assert "@" not in (folder / "pyproject.toml").read_text() + (folder / "README.md").read_text()
    python = install(folder)
    kit = subprocess.run(
        [python, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert kit.returncode == 0, kit.stdout[-4000:]
    assert " passed" in kit.stdout
    assert "skipped" not in kit.stdout
    with Daemon() as daemon:
        listed = daemon.must(daemon.orlop("plugins")).splitlines()
        (line,) = [line for line in listed if line.split()[1] == "two-words"]
        assert line.split()[2:5] == ["ok", "orlop-snapshotter-two-words", "0.1.0"]


def test_nothing_is_written_over(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    done = new("snapshotter", "fine", "--output", "there", where=tmp_path)
    assert (done.returncode, list((tmp_path / "there").iterdir())) == (1, [])
    assert "there is there already" in done.stderr


@pytest.mark.parametrize("name", ["Big", "a_b", "-x", "a--b", "../up"])
def test_names_are_names(tmp_path: Path, name: str) -> None:
    done = new("snapshotter", "--", name, where=tmp_path)
    assert done.returncode == 2
    assert list(tmp_path.iterdir()) == []
