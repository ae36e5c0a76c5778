"""top."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from orlop.cli.base import output_option, show, verb, with_client
from orlop.cli.complete import CONTAINER
from orlop.cli.format import shortened, since, size, table

if TYPE_CHECKING:
    from orlop.client import Client
    from orlop.values import Process

HEADER = ("PID", "PARENT", "INSIDE", "UID", "STATE", "CPU", "MEMORY", "UP", "EXEC", "COMMAND")
_WIDTH = 60


@verb("top")
@output_option
@click.option("--no-trunc", "whole", is_flag=True, help="Print whole commands.")
@click.argument("name", type=CONTAINER, metavar="CONTAINER")
@with_client
async def top(client: Client, *, output: str, whole: bool, name: str) -> None:
    """List the processes of a running container."""
    found = await client.containers.top(name)
    if output == "json":
        show(found)
        return
    click.echo(table(HEADER, [row(process, whole) for process in found]))


def row(process: Process, whole: bool) -> tuple[str, ...]:
    """A process as a line of the table."""
    command = " ".join(process.args) or f"[{process.name}]"
    return (
        str(process.pid),
        str(process.parent_pid),
        str(process.inner_pid),
        str(process.uid),
        process.state,
        f"{process.cpu_nanos / 1e9:.2f}s",
        size(process.memory_bytes),
        since(process.started_at),
        process.exec_id or "-",
        command if whole else shortened(command, _WIDTH),
    )
