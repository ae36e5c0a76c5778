"""ps and what is done to containers by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from orlop.cli.base import each, output_option, show, verb, with_client
from orlop.cli.complete import CONTAINER
from orlop.cli.format import ago, short, shortened, since, table

if TYPE_CHECKING:
    from orlop.client import Client
    from orlop.values import Container

names_argument = click.argument("names", nargs=-1, required=True, type=CONTAINER, metavar="CONTAINER...")


@verb("ps")
@click.option("-a", "--all", "everything", is_flag=True, help="Those that do not run too.")
@click.option("-q", "--quiet", is_flag=True, help="Print ids only.")
@click.option(
    "-f", "--filter", "filters", multiple=True, metavar="FILTER", help="As containerd's: labels.a==b."
)
@click.option("--no-trunc", is_flag=True, help="Print ids and commands whole.")
@output_option
@with_client
async def ps(
    client: Client,
    *,
    everything: bool,
    quiet: bool,
    filters: tuple[str, ...],
    no_trunc: bool,
    output: str,
) -> None:
    """List containers, newest first."""
    from orlop.values import ContainerState

    states = () if everything else (ContainerState.RUNNING, ContainerState.PAUSED)
    found = await client.containers.list(filters, states=states)
    if output == "json":
        show(found)
    elif quiet:
        for container in found:
            click.echo(container.id if no_trunc else short(container.id))
    else:
        click.echo(
            table(
                ("CONTAINER ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "NAME"),
                [row(container, no_trunc) for container in found],
            )
        )


def row(container: Container, whole: bool) -> tuple[str, ...]:
    """A container as a line of the table."""
    command = " ".join(container.args)
    return (
        container.id if whole else short(container.id),
        container.image or "-",
        command if whole else shortened(command, 30),
        ago(container.created_at),
        status(container),
        container.name,
    )


def status(container: Container) -> str:
    """How a container is, in words."""
    match container.state.value:
        case "running" if container.health:
            status = container.health.status.value
            said = f"health: {status}" if status == "starting" else status
            return f"Up {since(container.started_at)} ({said})"
        case "running":
            return f"Up {since(container.started_at)}"
        case "paused":
            return f"Up {since(container.started_at)} (paused)"
        case "stopped" if container.exit:
            why = f", {container.exit.reason}" if container.exit.reason else ""
            return f"Exited ({container.exit.code}) {ago(container.exit.at)}{why}"
        case other:
            return other.capitalize()


@verb("stop")
@click.option(
    "-t", "--time", "--timeout", "timeout", type=click.FloatRange(min=0), default=10, show_default=True,
    metavar="SECONDS", help="How long to wait before it is killed.",
)  # fmt: skip
@names_argument
@with_client
async def stop(client: Client, *, timeout: float, names: tuple[str, ...]) -> int:
    """Ask containers to end, and kill those that do not."""

    async def one(name: str) -> str:
        await client.containers.stop(name, timeout=timeout)
        return name

    return await each(names, one)


@verb("kill")
@click.option(
    "-s", "--signal", default="KILL", show_default=True, metavar="SIGNAL", help="The signal to send."
)
@click.option("-a", "--all", "everything", is_flag=True, help="To every process of the container.")
@names_argument
@with_client
async def kill(client: Client, *, signal: str, everything: bool, names: tuple[str, ...]) -> int:
    """Send containers a signal."""

    async def one(name: str) -> str:
        await client.containers.kill(name, signal, all=everything)
        return name

    return await each(names, one)


@verb("pause")
@names_argument
@with_client
async def pause(client: Client, *, names: tuple[str, ...]) -> int:
    """Freeze containers."""

    async def one(name: str) -> str:
        await client.containers.pause(name)
        return name

    return await each(names, one)


@verb("resume")
@names_argument
@with_client
async def resume(client: Client, *, names: tuple[str, ...]) -> int:
    """Thaw containers."""

    async def one(name: str) -> str:
        await client.containers.resume(name)
        return name

    return await each(names, one)


@verb("wait")
@names_argument
@with_client
async def wait(client: Client, *, names: tuple[str, ...]) -> int:
    """Wait until containers have ended, and print their exit codes."""

    async def one(name: str) -> str:
        return str((await client.containers.wait(name)).code)

    return await each(names, one)


@verb("rm")
@click.option("-f", "--force", is_flag=True, help="Kill those that run.")
@names_argument
@with_client
async def rm(client: Client, *, force: bool, names: tuple[str, ...]) -> int:
    """Remove containers with their snapshots and logs."""

    async def one(name: str) -> str:
        await client.containers.remove(name, force=force)
        return name

    return await each(names, one)
