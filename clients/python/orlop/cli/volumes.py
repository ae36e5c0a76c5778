"""volume ls and volume rm."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from orlop.cli.base import FAILED, output_option, report, show, verb, with_client
from orlop.cli.format import table

if TYPE_CHECKING:
    from orlop.client import Client


@verb("ls")
@output_option
@with_client
async def ls(client: Client, *, output: str) -> None:
    """List the named volumes of this namespace; `orlop run -v NAME:/PATH` makes one."""
    found = await client.volumes.list()
    if output == "json":
        show(found)
        return
    rows = [(each.name, ", ".join(each.containers) or "-", each.path) for each in found]
    click.echo(table(("VOLUME", "CONTAINERS", "PATH"), rows))


@verb("rm")
@click.argument("names", nargs=-1, required=True, metavar="VOLUME...")
@with_client
async def rm(client: Client, *, names: tuple[str, ...]) -> int:
    """Remove volumes with all that is in them."""
    from orlop.errors import OrlopError

    code = 0
    for name in names:
        try:
            await client.volumes.remove(name)
            click.echo(name)
        except OrlopError as error:
            code = report(error, FAILED)
    return code
