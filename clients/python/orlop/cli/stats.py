"""stats."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from orlop.cli.base import output_option, verb, with_client
from orlop.cli.complete import CONTAINER
from orlop.cli.format import size, table, to_json

if TYPE_CHECKING:
    from orlop.client import Client
    from orlop.values import Container, Stats

HEADER = ("CONTAINER ID", "NAME", "CPU", "MEMORY", "LIMIT", "PIDS", "BLOCK READ", "BLOCK WRITTEN")
CLEAR = "\x1b[H\x1b[J"


@verb("stats")
@click.option("--no-stream", is_flag=True, help="Print once and end.")
@click.option(
    "--interval", type=click.FloatRange(min=0.1), default=1.0, show_default=True, help="In seconds."
)
@output_option
@click.argument("names", nargs=-1, type=CONTAINER, metavar="[CONTAINER...]")
@with_client
async def stats(
    client: Client, *, no_stream: bool, interval: float, output: str, names: tuple[str, ...]
) -> None:
    """Show what running containers use; all of them without names. It ends when they have ended."""
    import asyncio

    from orlop.values import ContainerState

    if names:
        watched = [(await client.containers.get(name)).container for name in names]
    else:
        watched = list(await client.containers.list(states=[ContainerState.RUNNING, ContainerState.PAUSED]))
    board = Board(watched)
    async with asyncio.TaskGroup() as tasks:
        readers = [tasks.create_task(board.follow(client, c, interval, no_stream)) for c in watched]
        # Drawn on the beat and not with each message: the containers answer one after the other.
        while not no_stream and not all(reader.done() for reader in readers):
            await asyncio.sleep(interval)
            board.draw(output, again=True)
    if no_stream or not watched:
        board.draw(output, again=False)


class Board:
    """The latest two readings of each container."""

    def __init__(self, watched: list[Container]) -> None:
        self._watched = watched
        self._latest: dict[str, tuple[Stats | None, Stats]] = {}

    async def follow(self, client: Client, container: Container, interval: float, briefly: bool) -> None:
        """Read a container's numbers until it ends; ``briefly`` only two, as a share of time takes."""
        from orlop.errors import FailedPrecondition, NotFound

        try:
            async for reading in client.containers.stats(container.id, interval=interval):
                before = self._latest.get(container.id)
                self._latest[container.id] = (before[1] if before else None, reading)
                if briefly and before:
                    return
        except (FailedPrecondition, NotFound):
            pass  # it ended before we came
        self._latest.pop(container.id, None)

    def draw(self, output: str, *, again: bool) -> None:
        """Print what is known now."""
        found = [(c, *self._latest[c.id]) for c in self._watched if c.id in self._latest]
        if output == "json":
            readings = [
                {"id": c.id, "name": c.name, "cpu_percent": share(before, now), "stats": now}
                for c, before, now in found
            ]
            click.echo(to_json(readings, indent=None if again else 2))
            return
        rows = [row(c, before, now) for c, before, now in found]
        clear = CLEAR if again and sys.stdout.isatty() else ""
        click.echo(clear + table(HEADER, rows))


def row(container: Container, before: Stats | None, now: Stats) -> tuple[str, ...]:
    """A container as a line of the table."""
    used = share(before, now)
    return (
        container.id[:12],
        container.name,
        "-" if used is None else f"{used:.1f}%",
        size(now.memory_bytes),
        size(now.memory_limit) if now.memory_limit else "-",
        str(now.pids),
        size(now.io_read_bytes),
        size(now.io_write_bytes),
    )


def share(before: Stats | None, now: Stats) -> float | None:
    """Percent of one processor between two readings, None when there is only one."""
    if before is None or before.at is None or now.at is None or now.at <= before.at:
        return None
    nanos = (now.at - before.at).total_seconds() * 1e9
    return round(100 * (now.cpu_nanos - before.cpu_nanos) / nanos, 2)
