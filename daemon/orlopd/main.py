"""The command ``orlopd``."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click

from orlopd import revision, version

F = TypeVar("F", bound=Callable[..., Any])

USAGE_ERROR = 2


def _options(command: F) -> F:
    """The options of the daemon and of every subcommand, which may stand before or after its name."""
    for option in (
        click.option("--log-level", help="debug, info, warning or error."),
        click.option("--address", "addresses", multiple=True, help="Serve on unix:///PATH. Repeatable."),
        click.option("--state", help="Folder of what a reboot empties."),
        click.option("--root", help="Folder of what outlives a reboot."),
        click.option("--config", "config", help="The configuration file."),
    ):
        command = option(command)
    return command


def _show_version(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted:
        commit = revision()[:12]
        click.echo(f"orlopd {version()}" + (f" ({commit})" if commit else ""))
        context.exit()


@click.group(invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@_options
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_version,
    help="Show the version.",
)
@click.pass_context
def cli(context: click.Context, **given: Any) -> None:
    """Orlop's daemon: stores images, prepares root filesystems, runs containers.

    Without a command it serves, with defaults for everything; `orlopd config default` shows them.
    """
    context.obj = given
    if context.invoked_subcommand is None:
        _serve(given)


@cli.group()
def config() -> None:
    """Show the configuration."""


@config.command("default")
@_options
@click.pass_context
def config_default(context: click.Context, **given: Any) -> None:
    """Every key with its default and what it is for, those of the installed plugins included."""
    from orlopd.config import Config, Loaded, render
    from orlopd.host import Host

    loaded = _load(_merge(context, given))
    folders = Config(plugin_dirs=loaded.config.plugin_dirs)
    host = Host(Loaded(folders))
    click.echo(render(Config(), host.default_sections()), nl=False)


@config.command("dump")
@_options
@click.pass_context
def config_dump(context: click.Context, **given: Any) -> None:
    """The configuration in effect: defaults, file and options together."""
    from orlopd.config import render
    from orlopd.host import Host

    loaded = _load(_merge(context, given))
    click.echo(render(loaded.config, Host(loaded).sections, comments=False), nl=False)


@cli.command()
@_options
@click.pass_context
def plugins(context: click.Context, **given: Any) -> None:
    """The plugins that would be loaded and what they offer, without opening anything."""
    from orlopd.host import Host

    for info in Host(_load(_merge(context, given))).offered:
        line = f"{info.label:<40} {info.origin}"
        click.echo(f"{line}: {info.reason}" if info.reason else line)


@cli.command("serve-plugin")
@_options
@click.option("--content", help="For a differ: the socket of the host, whose content has the layers.")
@click.argument("id")
@click.pass_context
def serve_plugin(context: click.Context, id: str, content: str | None, **given: Any) -> None:
    """Serve one snapshotter, content store or differ as a proxy plugin of a containerd.

    ID is the part's, as "overlayfs" or "snapshotter.overlayfs"; --address the socket to serve on. Its
    files are below the folder "served" of the daemon's root.
    """
    merged = _merge(context, given)
    if not merged["addresses"]:
        raise click.UsageError("serve-plugin needs a socket to serve on: --address PATH")
    _prepare_process()
    loaded = _load(merged)

    from orlopd import logs

    logs.configure(loaded.config.log_level, loaded.config.log_format)

    import anyio

    from orlopd.serve_plugin import run

    anyio.run(run, loaded, id, content or "")


def _merge(context: click.Context, given: dict[str, Any]) -> dict[str, Any]:
    before = context.find_root().obj or {}
    return {key: given.get(key) or before.get(key) for key in given}


def _load(given: dict[str, Any]) -> Any:
    from orlopd.config import Overrides, load

    overrides = Overrides(given["root"], given["state"], given["addresses"] or (), given["log_level"])
    return load(Path(given["config"]).absolute() if given["config"] else None, overrides)


def _prepare_process() -> None:
    # Whoever started this may have leaked descriptors, and containers are not to inherit them.
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    os.umask(0o022)
    # No process is forked without exec here; the handlers that gRPC would install only cost.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")


def _serve(given: dict[str, Any]) -> None:
    _prepare_process()
    # A quarter of the time that imports take would go into looking for garbage among classes that
    # stay; what is there when the daemon serves is never looked at again.
    gc.disable()

    loaded = _load(given)

    from orlopd import logs, memory

    memory.limit_arenas()
    logs.configure(loaded.config.log_level, loaded.config.log_format)

    import anyio

    from orlopd.daemon import run

    anyio.run(run, loaded)


def main() -> None:
    """Run the command; whatever goes wrong is one line on standard error and an exit code.

    2 is for what the person who typed or wrote the config can mend, 1 for the rest.
    """
    try:
        code = cli.main(standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except click.exceptions.Exit as leave:
        sys.exit(leave.exit_code)
    except click.ClickException as error:
        _fail(error.format_message(), USAGE_ERROR)
    except (KeyboardInterrupt, click.Abort):
        sys.exit(130)
    except BrokenPipeError:
        # Whoever read our output has read enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(1)
    except Exception as error:
        _fail_with(error)


def _fail_with(error: BaseException) -> None:
    try:
        from orlopd.daemon import StartError
    except Exception:
        _fail(f"this installation is broken: {type(error).__name__}: {error}", 1)
    from orlopd.config import ConfigError
    from orlopd.host import HostError
    from orlopd.plugin.errors import OrlopError
    from orlopd.server import LockError, SocketError

    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    if isinstance(error, ConfigError):
        _fail(str(error), USAGE_ERROR)
    if isinstance(error, (StartError, HostError, LockError, SocketError, OrlopError)):
        _fail(str(error), 1)
    import logging

    logging.getLogger("orlopd").debug("internal error", exc_info=error)
    text = " ".join(str(error).split())
    _fail(f"internal error: {type(error).__name__}: {text} (--log-level debug shows more)", 1)


def _fail(message: str, code: int) -> NoReturn:
    click.echo(f"orlopd: {' '.join(message.split())}", err=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
