"""events: what happens, and what happened."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import click

from orlop.cli.base import output_option, say, verb, with_client
from orlop.cli.format import moment, plain, printable, to_json

if TYPE_CHECKING:
    from orlop.client import Client

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
PART = re.compile(r"(\d+(?:\.\d+)?)([smhd])")


class Moment(click.ParamType):
    """A time: "10m" or "1h30m" ago, RFC 3339 ("2024-05-01T12:00:00Z"), or seconds since 1970."""

    name = "TIME"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> datetime | None:
        if value is None or isinstance(value, datetime):
            return value
        text = str(value).strip()
        try:
            if re.fullmatch(rf"(?:{PART.pattern})+", text):
                seconds = sum(float(count) * UNITS[unit] for count, unit in PART.findall(text))
                return datetime.now(UTC) - timedelta(seconds=seconds)
            if re.fullmatch(r"\d+(\.\d+)?", text):
                return datetime.fromtimestamp(float(text), UTC)
            # One without a zone is in the person's own.
            return datetime.fromisoformat(text).astimezone(UTC)
        except (ValueError, OverflowError, OSError):
            self.fail(f"{text!r} is no time: want 10m, 2h30m, 2024-05-01T12:00:00Z or seconds since 1970")


@verb("events")
@click.option(
    "-f", "--filter", "filters", multiple=True, metavar="FILTER", help="As containerd's: topic~=^/tasks/."
)
@click.option("--since", type=Moment(), help="Begin with what happened since: 10m, 2h, or a time.")
@click.option("--until", type=Moment(), help="End at that time, or that long ago.")
@output_option
@with_client
async def events(
    client: Client, *, filters: tuple[str, ...], since: datetime | None, until: datetime | None, output: str
) -> None:
    """Print what happens, as it happens, until ctrl-C; with --since what happened before, too."""
    from orlop.values import EventsGap

    async for event in client.system.events(filters, since=since, until=until):
        if isinstance(event, EventsGap):
            say(f"events from {moment(event.since)} to {moment(event.until)} are missing: {event.reason}")
        elif output == "json":
            about = {**plain(event), "json": None, "event": json.loads(event.json or "null")}
            del about["json"]
            click.echo(to_json(about, indent=None))
        else:
            click.echo(printable(f"{moment(event.at)} {event.namespace} {event.topic} {event.json}"))
