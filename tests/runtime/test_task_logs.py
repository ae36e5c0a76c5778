"""The log of a task."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import pytest

from orlop_plugins.oci.config import OciConfig
from orlop_plugins.oci.runtime import OciRuntime
from orlopd.core.logs import read_log
from orlopd.plugin.runtime import Stdio
from tests.runtime.conftest import Bench, run


async def test_the_log_has_every_byte_in_cri_format(
    bench: Bench, runtime: OciRuntime, tmp_path: Path
) -> None:
    log = tmp_path / "deep/output.log"
    script = (
        "echo one; echo two >&2; printf tail; yes 123456789 | head -c 40000 | tr -d '\\n'; echo; printf end"
    )
    out, err, code = await run(
        runtime, bench.spec("a", "sh", "-c", script, stdio=Stdio(attach=True, log=str(log)))
    )
    assert code == 0
    seen = {b"stdout": b"", b"stderr": b""}
    for line in log.read_bytes().splitlines():
        stamp, stream, tag, text = line.split(b" ", 3)
        assert stamp.endswith(b"Z")
        assert len(stamp) == len("2006-01-02T15:04:05.999999999Z")
        assert len(text) <= 16384
        seen[stream] += text + (b"\n" if tag == b"F" else b"")
    assert seen == {b"stdout": out, b"stderr": err}


@pytest.mark.parametrize("form", ["cri", "json"])
async def test_the_log_is_rotated_by_size_and_count(
    bench: Bench, tmp_path: Path, form: Literal["cri", "json"]
) -> None:
    bench.config = OciConfig(log_format=form, log_max_size=20_000, log_max_files=2)
    log = tmp_path / "log"
    async with bench.open() as runtime:
        spec = bench.spec("a", "seq", "5000", stdio=Stdio(attach=True, log=str(log)))
        out, _, _ = await run(runtime, spec)
    assert sorted(os.listdir(tmp_path)) == ["log", "log.1", "log.2"]  # noqa: PTH208
    assert (log.read_bytes()[:1] == b"{") is (form == "json")
    numbers = [int(entry.data) async for entry in read_log(log)]
    assert numbers == list(range(numbers[0], 5001)), "a line is lost or doubled at a rotation"
    assert numbers[0] > 1
    assert out.splitlines()[-1] == b"5000"
    for path in (Path(f"{log}.2"), Path(f"{log}.1")):
        assert 20_000 <= path.stat().st_size < 20_100
