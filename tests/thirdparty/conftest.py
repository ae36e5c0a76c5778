"""Environments to install into."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import tests.support.daemon

PROGRAMS = ("orlopd", "orlop", "orlop-shim")

Install = Callable[[Path], Path]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Installs a distribution into a scratch environment over the one the tests run in; its Python."""

    def run(distribution: Path) -> Path:
        own = Path(sys.executable).parent
        scratch = tmp_path / "environment"
        python = scratch / "bin" / "python"
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", scratch], check=True, timeout=60)
        packages = next(scratch.glob("lib/python*/site-packages"))
        base = next(own.parent.glob("lib/python*/site-packages"))
        (packages / "base.pth").write_text(f"import site; site.addsitedir({str(base)!r})\n")
        arguments = ["pip", "install", "--offline", "--quiet", "--no-deps", "--no-build-isolation"]
        subprocess.run([own / "uv", *arguments, "--python", python, distribution], check=True, timeout=120)
        for name in PROGRAMS:
            program = scratch / "bin" / name
            program.write_text(f"#!{python}\n" + (own / name).read_text().partition("\n")[2])
            program.chmod(0o755)
        monkeypatch.setattr(tests.support.daemon, "BIN", scratch / "bin")
        return python

    return run
