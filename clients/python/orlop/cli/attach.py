"""start, exec and attach: talking to a container that is there already."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from orlop.cli.base import ENGINE_FAILED, each, usage, verb, with_client
from orlop.cli.complete import CONTAINER
from orlop.cli.options import environment
from orlop.cli.run import detach_keys_option

if TYPE_CHECKING:
    from orlop.client import Client


@verb("start", failure_code=ENGINE_FAILED)
@click.option("-a", "--attach", is_flag=True, help="Show its output and wait for its end.")
@click.option("-i", "--interactive", is_flag=True, help="Connect standard input too.")
@detach_keys_option
@click.argument("names", nargs=-1, required=True, type=CONTAINER, metavar="CONTAINER...")
@with_client
async def start(
    client: Client, *, attach: bool, interactive: bool, detach_keys: str, names: tuple[str, ...]
) -> int:
    """Start containers that are created or stopped. With -a or -i the exit code is the command's own."""
    if not attach and not interactive:
        return await each(names, lambda name: start_one(client, name))
    if len(names) != 1:
        raise usage("only one container can be attached to at a time")

    from orlop.cli.interact import Interaction, MainProcess, streams

    container = (await client.containers.get(names[0])).container
    connected = streams(stdin=interactive, tty=container.terminal, detach_keys=detach_keys)
    async with client.containers.start(container.id, attach=True, window=connected.window()) as session:
        await session.ready()
        return await Interaction(
            session, MainProcess(client, container.id), connected, name=container.name
        ).run()


async def start_one(client: Client, name: str) -> str:
    """Start a container and leave it alone; returns the name as it was given."""
    async with client.containers.start(name) as session:
        await session.ready()
    return name


@verb("exec", failure_code=ENGINE_FAILED, context_settings={"allow_interspersed_args": False})
@click.option("-i", "--interactive", is_flag=True, help="Connect standard input.")
@click.option("-t", "--tty", is_flag=True, help="Give the process a terminal.")
@click.option("-d", "--detach", is_flag=True, help="Leave it running.")
@click.option("-e", "--env", multiple=True, metavar="KEY[=VALUE]", help="Set a variable.")
@click.option("-w", "--workdir", default="", metavar="DIR", help="The directory to start in.")
@click.option("-u", "--user", default="", metavar="USER[:GROUP]", help="Who to run as.")
@detach_keys_option
@click.argument("name", type=CONTAINER, metavar="CONTAINER")
@click.argument("args", nargs=-1, required=True, type=click.UNPROCESSED, metavar="COMMAND...")
@with_client
async def exec_(
    client: Client,
    *,
    interactive: bool,
    tty: bool,
    detach: bool,
    detach_keys: str,
    name: str,
    args: tuple[str, ...],
    **options: Any,
) -> int:
    """Run one more command in a running container. The exit code is the command's own."""
    from orlop.cli.interact import ExecProcess, Interaction, streams

    if args[0] == "--":
        args = args[1:]
    if not args:
        raise usage("say what to run")
    connected = streams(stdin=interactive and not detach, tty=tty and not detach, detach_keys=detach_keys)
    session = client.containers.exec(
        name,
        args,
        env=environment(options["env"]),
        working_dir=options["workdir"],
        user=options["user"],
        terminal=tty,
        stdin=interactive and not detach,
        detach=detach,
        window=connected.window(),
    )
    async with session:
        await session.ready()
        if detach:
            return 0
        return await Interaction(session, ExecProcess(session), connected, name=args[0]).run()


@verb("attach", failure_code=ENGINE_FAILED)
@click.option("--no-stdin", is_flag=True, help="Show output only.")
@click.option("--scrollback", is_flag=True, help="Show what it wrote lately first.")
@click.option(
    "--sig-proxy/--no-sig-proxy", default=True, show_default=True,
    help="Whether ctrl-C and other signals go to the container, or only end this command.",
)  # fmt: skip
@detach_keys_option
@click.argument("name", type=CONTAINER, metavar="CONTAINER")
@with_client
async def attach(
    client: Client, *, no_stdin: bool, scrollback: bool, sig_proxy: bool, detach_keys: str, name: str
) -> int:
    """Connect to a running container. The exit code is the command's own."""
    from orlop.cli.interact import Interaction, MainProcess, streams

    container = (await client.containers.get(name)).container
    wants_input = not no_stdin and (container.spec is None or container.spec.stdin)
    connected = streams(stdin=wants_input, tty=container.terminal, detach_keys=detach_keys)
    session = client.containers.attach(container.id, scrollback=scrollback, window=connected.window())
    async with session:
        await session.ready()
        target = MainProcess(client, container.id) if sig_proxy else None
        return await Interaction(session, target, connected, name=container.name, redraw=True).run()
