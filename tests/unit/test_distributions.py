"""What every distribution of the workspace has in common."""

import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WORKSPACE = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["uv"]["workspace"]["members"]


@pytest.mark.parametrize("folder", WORKSPACE)
def test_distribution_ships_the_license(folder: str) -> None:
    assert (ROOT / folder / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()


def test_distributions_are_of_one_version() -> None:
    projects = [
        tomllib.loads((ROOT / folder / "pyproject.toml").read_text())["project"] for folder in WORKSPACE
    ]
    versions = {project["version"] for project in projects}
    assert len(versions) == 1
    ours = {project["name"] for project in projects}
    pins = {d for p in projects for d in p["dependencies"] if d.split("==")[0] in ours}
    assert pins == {f"{name}=={versions.copy().pop()}" for name in ("orlop-protos", "orlopd")}
