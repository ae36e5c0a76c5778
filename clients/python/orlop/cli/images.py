"""pull, push, and what is done to images by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from orlop.cli.base import discard_option, each, output_option, show, verb, with_client
from orlop.cli.complete import IMAGE
from orlop.cli.format import ago, printable, short, size, table
from orlop.cli.options import platform as parse_platform

if TYPE_CHECKING:
    from orlop.client import Client
    from orlop.values import Image


@verb("pull")
@click.option("--platform", metavar="OS/ARCH", help="The platform to fetch; this machine's without.")
@click.option("--all-platforms", is_flag=True, help="Fetch all there is; unpack what is for --platform.")
@click.option("--snapshotter", default="", metavar="NAME", help="The snapshotter to unpack into.")
@click.option("--plain-http", is_flag=True, help="Allow plain HTTP to the registry.")
@click.option("--no-unpack", is_flag=True, help="Fetch only.")
@discard_option
@click.option("-q", "--quiet", is_flag=True, help="Show no progress.")
@output_option
@click.argument("reference", metavar="NAME")
@with_client
async def pull(
    client: Client,
    *,
    platform: str | None,
    all_platforms: bool,
    snapshotter: str,
    plain_http: bool,
    no_unpack: bool,
    discard_unpacked: bool | None,
    quiet: bool,
    output: str,
    reference: str,
) -> None:
    """Fetch an image and unpack it. Prints its full name, with --output json all about it."""
    from orlop.cli.progress import display
    from orlop.credentials import find_credentials
    from orlop.values import Image

    image: Image | None = None
    credentials = await find_credentials(reference)
    with display(quiet=quiet) as shown:
        async for step in client.images.pull(
            reference,
            platform=parse_platform(platform),
            snapshotter=snapshotter,
            credentials=credentials,
            plain_http=plain_http,
            unpack=not no_unpack,
            discard_unpacked=discard_unpacked,
            all_platforms=all_platforms,
        ):
            shown.step(step)
            if isinstance(step, Image):
                image = step
    if image is not None:
        show(image) if output == "json" else click.echo(printable(image.name))


@verb("push")
@click.option("--platform", metavar="OS/ARCH", help="Push this one's manifest alone; all there is without.")
@click.option("--plain-http", is_flag=True, help="Allow plain HTTP to the registry.")
@click.option("-q", "--quiet", is_flag=True, help="Show no progress.")
@output_option
@click.argument("name", type=IMAGE, metavar="NAME")
@click.argument("target", metavar="[TARGET]", default="")
@with_client
async def push(
    client: Client,
    *,
    platform: str | None,
    plain_http: bool,
    quiet: bool,
    output: str,
    name: str,
    target: str,
) -> None:
    """Push an image to where TARGET points, its own name without. Prints the name with its digest.

    Credentials are those of Docker's config.json and its helpers.
    """
    from orlop.cli.progress import display
    from orlop.credentials import find_credentials
    from orlop.values import Pushed

    pushed: Pushed | None = None
    credentials = await find_credentials(target or name)
    with display(quiet=quiet) as shown:
        async for step in client.images.push(
            name,
            target,
            platform=parse_platform(platform),
            credentials=credentials,
            plain_http=plain_http,
        ):
            shown.step(step)
            if isinstance(step, Pushed):
                pushed = step
    if pushed is not None:
        show(pushed) if output == "json" else click.echo(f"{printable(pushed.name)} {pushed.digest}")


@verb("referrers")
@click.option("--type", "artifact_type", default="", metavar="TYPE", help="Of this artifact type alone.")
@click.option("--plain-http", is_flag=True, help="Allow plain HTTP to the registry.")
@output_option
@click.argument("reference", metavar="NAME")
@with_client
async def referrers(
    client: Client, *, artifact_type: str, plain_http: bool, output: str, reference: str
) -> None:
    """List what a registry has that is about an image: signatures, bills of materials.

    Each can be pulled with --no-unpack as REPOSITORY@DIGEST.
    """
    from orlop.credentials import find_credentials

    credentials = await find_credentials(reference)
    found = await client.images.referrers(
        reference, artifact_type, credentials=credentials, plain_http=plain_http
    )
    if output == "json":
        show(found)
    else:
        rows = [(each.digest, each.artifact_type or "-", size(each.size)) for each in found.listed]
        click.echo(table(("DIGEST", "TYPE", "SIZE"), rows))


@verb("images")
@click.option("-q", "--quiet", is_flag=True, help="Print names only.")
@click.option(
    "-f", "--filter", "filters", multiple=True, metavar="FILTER", help="As containerd's: name~=alpine."
)
@click.option("--no-trunc", is_flag=True, help="Print digests whole.")
@output_option
@with_client
async def images(
    client: Client, *, quiet: bool, filters: tuple[str, ...], no_trunc: bool, output: str
) -> None:
    """List images, in order of name."""
    found = await client.images.list(filters)
    if output == "json":
        show(found)
    elif quiet:
        for image in found:
            click.echo(printable(image.name))
    else:
        rows = [row(image, no_trunc) for image in found]
        click.echo(table(("NAME", "DIGEST", "PLATFORMS", "SIZE", "CREATED"), rows))


def row(image: Image, whole: bool) -> tuple[str, ...]:
    """An image as a line of the table."""
    platforms = ",".join(map(str, image.platforms)) or "-"
    digest = image.digest if whole else short(image.digest)
    return image.name, digest, platforms, size(image.size), ago(image.created_at)


@verb("rmi")
@click.option("-f", "--force", is_flag=True, help="Though containers use it.")
@click.argument("names", nargs=-1, required=True, type=IMAGE, metavar="NAME...")
@with_client
async def rmi(client: Client, *, force: bool, names: tuple[str, ...]) -> int:
    """Remove images' names, and what nothing else needs."""

    async def one(name: str) -> list[str]:
        removed = await client.images.remove(name, force=force)
        return [f"untagged {removed.name}", *(f"deleted {digest}" for digest in removed.deleted)]

    return await each(names, one)


@verb("tag")
@click.option("--in", "namespace", default="", metavar="NAMESPACE", help="In this one, sharing the content.")
@click.argument("source", type=IMAGE, metavar="NAME")
@click.argument("target", metavar="NEW-NAME")
@with_client
async def tag(client: Client, *, namespace: str, source: str, target: str) -> None:
    """Give an image one more name."""
    click.echo(printable((await client.images.tag(source, target, namespace=namespace)).name))
