"""The daemon itself: status, info, version, plugins."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from orlop.cli.base import output_option, show, verb, with_client
from orlop.cli.format import plain, printable, table

if TYPE_CHECKING:
    from orlop.client import Client


def lines(*pairs: tuple[str, object]) -> str:
    """Names and values, aligned."""
    width = max(len(name) for name, _ in pairs) + 1
    return "\n".join(
        f"{printable(name + ':'):<{width}}  {printable(str(value)) or '-'}" for name, value in pairs
    )


def own_version() -> str:
    """The version of this client."""
    from importlib.metadata import version as distribution_version

    return distribution_version("orlop")


@verb("status")
@output_option
@with_client
async def status(client: Client, *, output: str) -> None:
    """Say whether the daemon is up, which it is, and where."""
    found, info = await client.system.version(), await client.system.info()
    if output == "json":
        show(
            {
                "up": True,
                "address": client.address,
                "namespace": client.namespace,
                "version": found,
                "info": info,
            }
        )
        return
    click.echo(
        lines(
            ("daemon", f"orlopd {found.version} is up"),
            ("address", client.address),
            ("root", info.root_dir),
            ("state", info.state_dir),
            ("containers", f"{info.containers_running} running of {info.containers}"),
            ("images", info.images),
            *(("warning", warning) for warning in info.warnings),
        )
    )


@verb("info")
@output_option
@with_client
async def info(client: Client, *, output: str) -> None:
    """What the daemon is, where it keeps things, what it can do."""
    found = await client.system.info()
    if output == "json":
        show(found)
        return
    click.echo(
        lines(
            ("root", found.root_dir),
            ("state", found.state_dir),
            ("namespace", client.namespace),
            ("containers", f"{found.containers_running} running of {found.containers}"),
            ("images", found.images),
            ("snapshotter", found.default_snapshotter),
            ("runtime", found.default_runtime),
            ("cgroups", found.cgroup_mode),
            ("kernel", found.kernel),
            ("architecture", found.architecture),
            *sorted(found.extra.items()),
            *(("warning", warning) for warning in found.warnings),
        )
    )


@verb("version")
@output_option
@with_client
async def version(client: Client, *, output: str) -> None:
    """The versions of this command and of the daemon."""
    found = await client.system.version()
    if output == "json":
        show({"client": own_version(), "server": plain(found)})
        return
    click.echo(
        lines(
            ("client", own_version()),
            ("server", " ".join(filter(None, [found.version, found.revision]))),
            ("python", found.python),
            ("containerd API", found.containerd_api),
        )
    )


@verb("plugins")
@output_option
@with_client
async def plugins(client: Client, *, output: str) -> None:
    """List the daemon's plugins, those that failed or do not suit the machine too."""
    found = await client.system.plugins()
    if output == "json":
        show(found)
        return
    rows = [(p.kind, ", ".join([p.id, *p.aliases]), p.status.value, p.origin or "-", p.reason) for p in found]
    click.echo(table(("KIND", "ID", "STATUS", "ORIGIN", "REASON"), rows))
