"""shim ls, shim inspect and shim logs."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from orlop.cli.base import FAILED, output_option, report, show, verb, with_client
from orlop.cli.complete import CONTAINER
from orlop.cli.format import short, since, size, table

if TYPE_CHECKING:
    from orlop.client import Client
    from orlop.values import Shim


@verb("ls")
@output_option
@with_client
async def ls(client: Client, *, output: str) -> None:
    """List the shims of this namespace's containers."""
    found = await client.shims.list()
    if output == "json":
        show(found)
        return
    header = ("CONTAINER ID", "NAME", "PID", "RUNTIME", "VERSION", "MEMORY", "UP", "STATE")
    click.echo(table(header, [row(shim) for shim in found]))


def row(shim: Shim) -> tuple[str, ...]:
    """A shim as a line of the table."""
    return (
        short(shim.container),
        shim.name,
        str(shim.pid or "-"),
        shim.runtime,
        f"{shim.version or '-'} ({shim.protocol})" if shim.protocol else shim.version or "-",
        size(shim.memory_bytes) if shim.memory_bytes else "-",
        since(shim.started_at) if shim.started_at else "-",
        shim.problem or "ok",
    )


@verb("inspect")
@click.argument("names", nargs=-1, required=True, type=CONTAINER, metavar="CONTAINER...")
@with_client
async def inspect(client: Client, *, names: tuple[str, ...]) -> int:
    """Print all there is to know about containers' shims, as a JSON array."""
    from orlop.errors import InvalidArgument, NotFound

    found: list[Shim] = []
    code = 0
    for name in names:
        try:
            found.append(await client.shims.get(name))
        except (NotFound, InvalidArgument) as error:
            code = report(error, FAILED)
    show(found)
    return code


@verb("logs")
@click.argument("name", type=CONTAINER, metavar="CONTAINER")
@with_client
async def logs(client: Client, *, name: str) -> None:
    """Print what a container's shim has logged; `orlop logs` prints what the container has."""
    async for piece in client.shims.log(name):
        sys.stdout.buffer.write(piece)
    sys.stdout.buffer.flush()
