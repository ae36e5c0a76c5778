"""The options that say what a container shall be, and what they mean."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from orlop.cli import settings
from orlop.cli.base import Failure, usage
from orlop.cli.types import Bytes, Copy, Cpus, Pair, Tmpfs, Volume

if TYPE_CHECKING:
    from orlop.values import ContainerSpec

F = TypeVar("F", bound=Callable[..., Any])

SCRATCH = "scratch"

SPEC_OPTIONS = (
    click.option("-i", "--interactive", is_flag=True, help="Connect standard input."),
    click.option("-t", "--tty", is_flag=True, help="Give the process a terminal."),
    click.option("--rm", "remove", is_flag=True, help="Remove the container when it has ended."),
    click.option(
        "--restart",
        default="",
        metavar="POLICY",
        help="Start it again when it has ended: no, always, unless-stopped, on-failure[:N].",
    ),
    click.option("--name", default="", metavar="NAME", help="Call it this; made up without."),
    click.option(
        "-e", "--env", "env", multiple=True, metavar="KEY[=VALUE]", help="Set a variable, or pass it on."
    ),
    click.option(
        "-v", "--volume", "volumes", type=Volume(), multiple=True, help="Mount a file, folder or volume."
    ),
    click.option("--tmpfs", type=Tmpfs(), multiple=True, help="Mount memory."),
    click.option("-w", "--workdir", default="", metavar="DIR", help="The directory to start in."),
    click.option("-u", "--user", default="", metavar="USER[:GROUP]", help="Who to run as."),
    click.option("--entrypoint", metavar="PROGRAM", help="Run this in place of the image's; '' for none."),
    click.option("--hostname", default="", metavar="NAME", help="The host name inside."),
    click.option(
        "--net", "--network", "net", type=click.Choice(["none", "host"]), default="none", show_default=True,
        help="The network: loopback alone, or this machine's.",
    ),
    click.option("-m", "--memory", type=Bytes(), default=0, help="A limit, as 64m or 1.5g."),
    click.option("--cpus", type=Cpus(), default=0, help="A limit, as 0.5."),
    click.option("--pids-limit", type=click.IntRange(min=0), default=0, help="A limit of processes."),
    click.option("--read-only", is_flag=True, help="Mount the root filesystem read-only."),
    click.option("--cap-add", multiple=True, metavar="CAP", help="Add a capability, or ALL."),
    click.option("--cap-drop", multiple=True, metavar="CAP", help="Take a capability away, or ALL."),
    click.option("-l", "--label", "labels", type=Pair(), multiple=True, help="Set a label."),
    click.option("--stop-signal", default="", metavar="SIGNAL", help="The signal that asks it to stop."),
    click.option("--snapshotter", default="", metavar="NAME", help="The snapshotter to use."),
    click.option("--runtime", default="", metavar="NAME", help="The runtime to use."),
    click.option("--platform", metavar="OS/ARCH", help="The image's platform."),
    click.option(
        "--pull", "pull_policy", type=click.Choice(["missing", "always", "never"]), default="missing",
        show_default=True, help="When to pull the image.",
    ),
    click.option("--plain-http", is_flag=True, help="Allow plain HTTP to the registry."),
    click.option("--rootfs", metavar="DIR|scratch", help="Run from a directory, or from nothing."),
    click.option("--bundle", metavar="DIR", help="Run an OCI bundle in place of an image."),
    *settings.OPTIONS,
    click.option("--copy", "copies", type=Copy(), multiple=True, help="Put a file or directory in first."),
    click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="[IMAGE] [COMMAND...]"),
)  # fmt: skip


def spec_options(function: F) -> F:
    """Give a command all the options that say what a container shall be."""
    for option in reversed(SPEC_OPTIONS):
        function = option(function)
    return function


@dataclass(frozen=True, slots=True)
class Wish:
    """What the options of run and create ask for: the container, how to get its image, what to copy in."""

    spec: ContainerSpec
    pull_policy: str
    plain_http: bool
    copies: tuple[tuple[Path, str], ...]


def wish(
    *, interactive: bool, tty: bool, words: tuple[str, ...], rootfs: str | None, bundle: str | None, **o: Any
) -> Wish:
    """What the options ask for.

    :raises Failure: they contradict each other
    """
    from orlop.values import ContainerSpec, Network, Resources

    image, args = "", words
    if rootfs and bundle:
        raise usage("--rootfs and --bundle exclude each other")
    if bundle and words:
        raise usage(f"the bundle's config.json says what to run: {words[0]!r} would have no effect")
    if not rootfs and not bundle:
        if not words:
            raise usage("say what to run: an image, --rootfs DIR, --rootfs scratch or --bundle DIR")
        image, args = words[0], words[1:]
        if args[:1] == ("--",):
            args = args[1:]
    spec = ContainerSpec(
        image=image,
        rootfs=directory(rootfs) if rootfs and rootfs != SCRATCH else "",
        scratch=rootfs == SCRATCH,
        bundle=directory(bundle) if bundle else "",
        args=args,
        name=o["name"],
        entrypoint=None if o["entrypoint"] is None else tuple(filter(None, [o["entrypoint"]])),
        env=environment(o["env"]),
        working_dir=o["workdir"],
        user=o["user"],
        hostname=o["hostname"],
        terminal=tty,
        stdin=interactive,
        labels=dict(o["labels"]),
        mounts=(*o["volumes"], *o["tmpfs"]),
        network=Network(o["net"]),
        resources=Resources(
            memory_bytes=o["memory"], nano_cpus=o["cpus"], pids=o["pids_limit"], **settings.limits(o)
        ),
        read_only=o["read_only"],
        cap_add=o["cap_add"],
        cap_drop=o["cap_drop"],
        snapshotter=o["snapshotter"],
        runtime=o["runtime"],
        auto_remove=o["remove"],
        restart=o["restart"],
        stop_signal=o["stop_signal"],
        platform=platform(o["platform"]),
        **settings.settings(o),
    )
    if not spec.args and not spec.entrypoint and (spec.rootfs or spec.scratch):
        raise usage("a root directory has no command of its own: say what to run after `--`")
    return Wish(spec, o["pull_policy"], o["plain_http"], o["copies"])


def directory(path: str) -> str:
    """A directory's absolute path.

    :raises Failure: there is none
    """
    if not Path(path).is_dir():
        what = "no such directory" if not Path(path).exists() else "not a directory"
        raise Failure(f"{path}: {what}", code=125)
    return str(Path(path).resolve())


def environment(given: Iterable[str]) -> tuple[str, ...]:
    """KEY=VALUE as given; for KEY alone its value here, nothing when it has none."""
    found: list[str] = []
    for item in given:
        key, has_value, _ = item.partition("=")
        if not key:
            raise usage(f"{item!r} is not KEY=VALUE")
        if has_value:
            found.append(item)
        elif key in os.environ:
            found.append(f"{key}={os.environ[key]}")
    return tuple(found)


def platform(text: str | None) -> Any:
    """OS[(VERSION)]/ARCH[/VARIANT] as a value, None for None."""
    from orlop.values import Platform

    if not text:
        return None
    parts = text.split("/")
    if len(parts) not in (2, 3) or not all(parts):
        raise usage(f"{text!r} is no platform: write OS/ARCH, for example linux/amd64")
    system, opened, version = parts[0].partition("(")
    if bool(opened) != version.endswith(")"):
        raise usage(f"{text!r} is no platform: an OS with a version is written OS(VERSION)")
    variant = parts[2] if len(parts) == 3 else ""
    return Platform(system, parts[1], variant, version.removesuffix(")"))
