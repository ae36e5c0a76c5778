"""A host over plugins and a config."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from orlopd.config import Loaded, load
from orlopd.core.parts import Parts
from orlopd.host import Host, Plugin


@pytest.fixture
def opened(tmp_path: Path):
    """Opens a host over plugins and a config."""

    @asynccontextmanager
    async def open_host(*plugins: Plugin, config: str = "") -> AsyncIterator[tuple[Host, Parts]]:
        file = tmp_path / "config.toml"
        file.write_text(
            f'root = "{tmp_path}/r"\nstate = "/tmp/x"\nplugin_dirs = ["{tmp_path}/drop"]\n{config}'
        )
        loaded = load(file)
        # The state folder must be short, which pytest's are not.
        short = loaded.config.model_copy(update={"state": Path(state)})
        host = Host(Loaded(short, file, loaded.text), plugins, installed=False)
        async with host.open() as parts:
            yield host, parts

    import tempfile

    with tempfile.TemporaryDirectory(dir="/tmp") as state:
        yield open_host
