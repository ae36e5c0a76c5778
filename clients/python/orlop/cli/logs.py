"""logs."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import click

from orlop.cli.base import verb, with_client
from orlop.cli.complete import CONTAINER
from orlop.cli.format import moment

if TYPE_CHECKING:
    from orlop.client import Client

DURATION = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s)?")


class When(click.ParamType):
    """A point in time: "10m" or "1h30m" ago, RFC 3339, or seconds since 1970."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        if isinstance(value, datetime):
            return value
        match = DURATION.fullmatch(value)
        if match and value:
            days, hours, minutes, seconds = (float(part or 0) for part in match.groups())
            return datetime.now(UTC) - timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)
        try:
            return datetime.fromtimestamp(float(value), UTC)
        except (ValueError, OverflowError, OSError):
            pass
        try:
            return datetime.fromisoformat(value).astimezone()
        except ValueError:
            self.fail(
                f"{value!r} is no time: write 10m, 2025-11-23T12:00:00Z or seconds since 1970", param, ctx
            )


class Tail(click.ParamType):
    """A number of lines, or "all"."""

    name = "lines"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | None:
        if value == "all":
            return None
        if not str(value).isdecimal():
            self.fail(f"{value!r} is no number of lines", param, ctx)
        return int(value)


@verb("logs")
@click.option("-f", "--follow", is_flag=True, help="Go on with what is written from now on.")
@click.option("--tail", "-n", type=Tail(), default="all", show_default=True, help="Only the last so many.")
@click.option("--since", type=When(), help="Only what was written from then on: 10m, or a time.")
@click.option("--until", type=When(), help="Only what was written before then.")
@click.option("-t", "--timestamps", is_flag=True, help="Say when each line was written.")
@click.argument("name", type=CONTAINER, metavar="CONTAINER")
@with_client
async def logs(
    client: Client,
    *,
    follow: bool,
    tail: int | None,
    since: datetime | None,
    until: datetime | None,
    timestamps: bool,
    name: str,
) -> None:
    """Print what a container has written."""
    from orlop.cli.terminal import write
    from orlop.values import LogStream

    line_open = {LogStream.STDOUT: False, LogStream.STDERR: False}
    async for line in client.containers.logs(name, follow=follow, tail=tail, since=since, until=until):
        data = line.data
        if timestamps and not line_open[line.stream]:
            data = f"{moment(line.at)} ".encode() + data
        line_open[line.stream] = not line.data.endswith(b"\n")
        await write(2 if line.stream == LogStream.STDERR else 1, data)
