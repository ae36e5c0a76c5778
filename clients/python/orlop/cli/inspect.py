"""inspect."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from orlop.cli.base import FAILED, Failure, report, show, verb, with_client
from orlop.cli.format import plain

if TYPE_CHECKING:
    from orlop.client import Client


@verb("inspect")
@click.option("--type", "kind", type=click.Choice(["container", "image"]), help="Look only for this.")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@with_client
async def inspect(client: Client, *, kind: str | None, names: tuple[str, ...]) -> int:
    """Print all there is to know about containers or images, as a JSON array."""
    from orlop.errors import InvalidArgument, NotFound

    found: list[dict[str, Any]] = []
    code = 0
    for name in names:
        try:
            found.append(await look(client, name, kind))
        except (NotFound, InvalidArgument, Failure) as error:
            code = report(error, FAILED)
    show(found)
    return code


async def look(client: Client, name: str, kind: str | None) -> dict[str, Any]:
    """A container, or else an image, of that name.

    :raises Failure: there is neither
    """
    from orlop.errors import InvalidArgument, NotFound

    if kind != "image":
        try:
            details = await client.containers.get(name)
        except (NotFound, InvalidArgument):
            if kind:
                raise
        else:
            spec = json.loads(details.oci_spec) if details.oci_spec else None
            return {
                "type": "container",
                **plain(details.container),
                "oci_spec": spec,
                "spec_changes": plain(details.spec_changes),
            }
    try:
        image = await client.images.get(name)
    except (NotFound, InvalidArgument):
        if kind:
            raise
        raise Failure(f"{name}: no such container or image") from None
    return {"type": "image", **plain(image.image), "config": plain(image.config)}
