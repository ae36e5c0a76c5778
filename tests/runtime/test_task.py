"""A task's life under its shim, with pipes and with a terminal."""

from __future__ import annotations

from tests.runtime.conftest import Bench, process_of, read_all, run, wait_for

from orlop_plugins.oci.runtime import OciRuntime
from orlopd.plugin.runtime import ExecSpec, Resize, Stdin, Stdio, TaskState


async def test_output_and_exit_code_come_through_pipes(bench: Bench, runtime: OciRuntime) -> None:
    spec = bench.spec("a", "sh", "-c", "echo out; echo err >&2; exit 7")
    assert await run(runtime, spec) == (b"out\n", b"err\n", 7)
