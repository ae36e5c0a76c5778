"""What every command stands on: settings, errors as one line, a client, output."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

import click

from orlop.cli.format import printable, to_json

if TYPE_CHECKING:
    from orlop.client import Client

P = ParamSpec("P")
T = TypeVar("T")

DEBUG = "ORLOP_DEBUG"
FAILURE_CODE = "orlop.failure_code"
FAILED, ENGINE_FAILED, NOT_EXECUTABLE, NOT_FOUND = 1, 125, 126, 127
INTERRUPTED = 128 + signal.SIGINT
TERMINATED = 128 + signal.SIGTERM
BROKEN_PIPE = 128 + signal.SIGPIPE


@dataclass(frozen=True, slots=True)
class Settings:
    """What the options before the command's name said; None where they said nothing."""

    address: str | None
    namespace: str | None


class Failure(click.ClickException):
    """The command failed: one line, a hint where there is one, and an exit code."""

    def __init__(self, message: str, *, hint: str = "", code: int = FAILED) -> None:
        super().__init__(message)
        self.hint = hint
        self.exit_code = code  # pyright: ignore[reportAttributeAccessIssue, reportIncompatibleVariableOverride]


class Verb(click.Command):
    """A command. ``failure_code`` is what it exits with when Orlop, and not the container, failed."""

    def __init__(self, *args: Any, failure_code: int = FAILED, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.failure_code = failure_code

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        if parent is not None:
            parent.find_root().meta[FAILURE_CODE] = self.failure_code
        return super().make_context(info_name, args, parent, **extra)


def verb(name: str, **settings: Any) -> Callable[[Callable[..., Any]], click.Command]:
    """Declare a command. ``failure_code`` and click's own settings may be given."""
    return click.command(name, cls=Verb, **settings)


def with_client(
    function: Callable[Concatenate[Client, P], Coroutine[Any, Any, T]],
) -> Callable[P, T]:
    """Make a coroutine function that takes a client an ordinary function that brings its own."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        import asyncio

        return asyncio.run(_with_client(lambda client: function(client, *args, **kwargs)))

    return call


async def _with_client(work: Callable[[Client], Awaitable[T]]) -> T:
    import asyncio

    from orlop.client import connect

    settings = click.get_current_context().find_object(Settings) or Settings(None, None)
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    terminated = False

    def terminate() -> None:
        nonlocal terminated
        terminated = True
        if task is not None:
            task.cancel()

    # As SIGINT, which asyncio.run sees to: what is under way is cancelled, cursor and terminal come back.
    loop.add_signal_handler(signal.SIGTERM, terminate)
    try:
        async with connect(settings.address, namespace=settings.namespace) as client:
            return await work(client)
    except asyncio.CancelledError:
        if terminated:
            raise SystemExit(TERMINATED) from None
        raise


output_option = click.option(
    "--output",
    "--format",
    "output",
    type=click.Choice(["table", "json"]),
    default="table",
    show_default=True,
    help="How to print it.",
)


discard_option = click.option(
    "--discard-unpacked/--keep-unpacked",
    default=None,
    help="Drop a layer's blob once it is unpacked, or keep it; as the daemon's config says without.",
)


def show(value: Any) -> None:
    """Print a value as JSON."""
    click.echo(to_json(value))


def say(message: str) -> None:
    """Tell the person something that is not the command's output; nobody may be there to hear it."""
    with contextlib.suppress(OSError):
        click.echo(f"orlop: {printable(message)}", err=True)


def usage(message: str) -> click.UsageError:
    """What was typed makes no sense."""
    return click.UsageError(message, click.get_current_context(silent=True))


def one_line(text: str) -> str:
    """A message on one line: what came over the wire may have had more."""
    return printable(" ".join(text.split()))


def report(error: BaseException, failure_code: int) -> int:
    """Print an error as a line and perhaps a hint, and return the exit code that it stands for."""
    from orlop.errors import CommandNotExecutable, CommandNotFound, OrlopError

    code, hint = failure_code, ""
    match error:
        case Failure():
            message, hint, code = error.message, error.hint, error.exit_code
        case click.UsageError():
            message = error.format_message()
            code = failure_code if failure_code != FAILED else error.exit_code
            hint = f"see `{error.ctx.command_path} --help`" if error.ctx else ""
        case click.ClickException():
            message, code = error.format_message(), error.exit_code
        case OrlopError():
            message, hint = error.message, error.hint
            if failure_code == ENGINE_FAILED and isinstance(error, CommandNotFound):
                code = NOT_FOUND
            elif failure_code == ENGINE_FAILED and isinstance(error, CommandNotExecutable):
                code = NOT_EXECUTABLE
        case OSError():
            what = f"{error.filename}: " if error.filename else ""
            message = f"{what}{error.strerror or error}"
        case _:
            message = f"{type(error).__name__}: {error}"
            hint = f"this is a fault of orlop's own; {DEBUG}=1 shows where"
    click.echo(f"orlop: {one_line(message)}", err=True)
    if hint:
        click.echo(f"hint: {one_line(hint)}", err=True)
    return code


async def each(names: tuple[str, ...], action: Callable[[str], Awaitable[str | Sequence[str]]]) -> int:
    """Do something to each name and print what comes back; one that fails does not keep others from it."""
    from orlop.errors import CannotConnect, OrlopError

    code = 0
    for name in names:
        try:
            answer = await action(name)
        except CannotConnect:
            raise
        except OrlopError as error:
            code = report(error, FAILED)
        else:
            for line in [answer] if isinstance(answer, str) else answer:
                click.echo(printable(line))
    return code


def standard_descriptors() -> None:
    """Open /dev/null in place of a closed standard stream, lest a socket take its number."""
    for descriptor, flags in ((0, os.O_RDONLY), (1, os.O_WRONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(descriptor)
        except OSError:
            opened = os.open(os.devnull, flags)
            if opened != descriptor:
                os.dup2(opened, descriptor)
                os.close(opened)
    for name, descriptor, mode in (("stdout", 1, "w"), ("stderr", 2, "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(descriptor, mode, closefd=False))
