"""The entry point: which commands there are, what goes before them, and how they end."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import Any, NoReturn

import click

from orlop.cli.base import (
    BROKEN_PIPE,
    DEBUG,
    FAILED,
    FAILURE_CODE,
    INTERRUPTED,
    Settings,
    report,
    standard_descriptors,
)
from orlop.cli.complete import answer

COMMANDS = {
    "run": "run:run",
    "create": "run:create",
    "start": "attach:start",
    "exec": "attach:exec_",
    "attach": "attach:attach",
    "ps": "containers:ps",
    "logs": "logs:logs",
    "stop": "containers:stop",
    "kill": "containers:kill",
    "pause": "containers:pause",
    "resume": "containers:resume",
    "wait": "containers:wait",
    "rm": "containers:rm",
    "update": "update:update",
    "stats": "stats:stats",
    "top": "top:top",
    "inspect": "inspect:inspect",
    "pull": "images:pull",
    "push": "images:push",
    "referrers": "images:referrers",
    "images": "images:images",
    "rmi": "images:rmi",
    "tag": "images:tag",
    "import": "archives:import_",
    "export": "archives:export",
    "image": "main:image",
    "events": "system_events:events",
    "plugins": "system:plugins",
    "plugin": "main:plugin",
    "status": "system:status",
    "info": "system:info",
    "version": "system:version",
    "shim": "main:shim",
    "volume": "main:volume",
    "system": "main:system",
}
IMAGE_COMMANDS = {
    "build": "archives:build",
    "pull": "images:pull",
    "push": "images:push",
    "referrers": "images:referrers",
    "ls": "images:images",
    "rm": "images:rmi",
    "tag": "images:tag",
    "import": "archives:import_",
    "export": "archives:export",
}
SYSTEM_COMMANDS = {
    "df": "system_storage:df",
    "prune": "system_storage:prune",
    "why": "system_storage:why",
    "fsck": "system_storage:fsck",
    "info": "system:info",
    "events": "system_events:events",
}


SHIM_COMMANDS = {
    "ls": "shims:ls",
    "inspect": "shims:inspect",
    "logs": "shims:logs",
}
VOLUME_COMMANDS = {
    "ls": "volumes:ls",
    "rm": "volumes:rm",
}
PLUGIN_COMMANDS = {
    "new": "plugin:new",
}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are asked for."""

    def __init__(self, *args: Any, homes: dict[str, str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.homes = homes

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.homes)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.homes:
            return None
        module, _, attribute = self.homes[cmd_name].partition(":")
        return getattr(import_module(f"orlop.cli.{module}"), attribute)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.NoSuchCommand as error:
            raise click.NoSuchCommand(error.command_name, possibilities=self.homes, ctx=ctx) from None


@click.group(cls=LazyGroup, homes=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--address", metavar="ADDRESS", help="Where the daemon is: unix:///PATH. [env: ORLOP_ADDRESS]")
@click.option("-n", "--namespace", metavar="NAME", help="The namespace to work in. [env: ORLOP_NAMESPACE]")
@click.version_option(package_name="orlop", prog_name="orlop", message="%(prog)s %(version)s")
@click.pass_context
def cli(ctx: click.Context, address: str | None, namespace: str | None) -> None:
    """Run containers with Orlop."""
    ctx.obj = Settings(address, namespace)


@click.group("image", cls=LazyGroup, homes=IMAGE_COMMANDS)
def image() -> None:
    """Build images, and all the rest that is done with them."""


@click.group("plugin", cls=LazyGroup, homes=PLUGIN_COMMANDS)
def plugin() -> None:
    """Write a plugin."""


@click.group("shim", cls=LazyGroup, homes=SHIM_COMMANDS)
def shim() -> None:
    """Look at the processes that look after containers."""


@click.group("volume", cls=LazyGroup, homes=VOLUME_COMMANDS)
def volume() -> None:
    """Look at named volumes, and remove them."""


@click.group("system", cls=LazyGroup, homes=SYSTEM_COMMANDS)
def system() -> None:
    """Disk usage, cleaning up, and whether all is sound."""


def run(arguments: list[str]) -> int:
    """Run one command line and return its exit code; errors are printed, none comes out."""
    meta: dict[str, Any] = {}
    try:
        with cli.make_context("orlop", arguments) as ctx:
            meta = ctx.meta
            result = cli.invoke(ctx)
            return result if isinstance(result, int) else 0
    except click.exceptions.Exit as end:
        return end.exit_code
    except click.exceptions.NoArgsIsHelpError as end:
        end.show()
        return end.exit_code
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else FAILED
    except (KeyboardInterrupt, click.Abort):
        return INTERRUPTED
    except BrokenPipeError:
        return BROKEN_PIPE
    except Exception as error:
        if os.environ.get(DEBUG):
            raise
        return report(error, meta.get(FAILURE_CODE, FAILED))


def main() -> NoReturn:
    """The command `orlop`."""
    standard_descriptors()
    # gRPC's own log lines are for its developers; what matters comes out as an error.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    code = answer(cli)
    if code is None:
        code = run(sys.argv[1:])
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            code = code or BROKEN_PIPE
    # Not sys.exit: that waits for threads, and one may be stuck writing to a terminal that nobody reads.
    os._exit(code)
