"""update."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from orlop.cli.base import each, usage, verb, with_client
from orlop.cli.containers import names_argument
from orlop.cli.types import Bytes, Cpus

if TYPE_CHECKING:
    from orlop.client import Client


@verb("update")
@click.option(
    "--restart", metavar="POLICY", help="Start it again: no, always, unless-stopped, on-failure[:N]."
)
@click.option("-m", "--memory", "memory_bytes", type=Bytes(), default=0, help="A limit, as 64m or 1.5g.")
@click.option("--memory-swap", default="", metavar="SIZE", help="Memory and swap together; -1 for no limit.")
@click.option(
    "--memory-reservation",
    "memory_reservation_bytes",
    type=Bytes(),
    default=0,
    help="Memory kept when it runs short.",
)
@click.option("--cpus", "nano_cpus", type=Cpus(), default=0, help="A limit, as 0.5.")
@click.option("-c", "--cpu-shares", type=click.IntRange(min=0), default=0, help="Its share; 1024 is usual.")
@click.option("--cpu-quota", type=int, default=0, help="Microseconds of processor time a period.")
@click.option("--cpu-period", type=click.IntRange(min=0), default=0, help="Microseconds of a period.")
@click.option("--cpuset-cpus", default="", metavar="SET", help="The processors it may use: 0-3,6.")
@click.option("--cpuset-mems", default="", metavar="SET", help="The memory nodes it may use.")
@click.option("--pids-limit", "pids", type=click.IntRange(min=0), default=0, help="A limit of processes.")
@click.option(
    "--blkio-weight",
    "block_weight",
    type=click.IntRange(min=0),
    default=0,
    help="Its share of block devices.",
)
@names_argument
@with_client
async def update(
    client: Client, *, restart: str | None, memory_swap: str, names: tuple[str, ...], **limits: Any
) -> int:
    """Change limits and the restart policy of containers: at once if they run, and for good."""
    from orlop.values import Resources

    if memory_swap:
        whole = -1 if memory_swap == "-1" else Bytes().convert(memory_swap, None, None)
        limits["memory_swap_bytes"] = whole
    if restart is None and not any(limits.values()):
        raise usage("say what to change, as --memory 64m or --restart always")

    async def one(name: str) -> str:
        await client.containers.update(name, Resources(**limits), restart=restart)
        return name

    return await each(names, one)
