"""import, export and build: images as streams of bytes."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from orlop.cli.base import Failure, discard_option, output_option, show, usage, verb, with_client
from orlop.cli.format import printable
from orlop.cli.options import platform as parse_platform
from orlop.cli.types import Pair

if TYPE_CHECKING:
    from orlop.client import Client

STDIN, STDOUT = 0, 1


@verb("import")
@click.option(
    "--name", default="", metavar="NAME", help="A name for an image that the archive leaves unnamed."
)
@click.option("--snapshotter", default="", metavar="NAME", help="The snapshotter to unpack into.")
@click.option("--no-unpack", is_flag=True, help="Store only.")
@discard_option
@click.option("-q", "--quiet", is_flag=True, help="Show no progress.")
@output_option
@click.argument("file", metavar="FILE|DIR|-")
@with_client
async def import_(
    client: Client,
    *,
    name: str,
    snapshotter: str,
    no_unpack: bool,
    discard_unpacked: bool | None,
    quiet: bool,
    output: str,
    file: str,
) -> None:
    """Store the images of an archive: an OCI layout or what `docker save` wrote, plain or gzipped.

    A directory is taken as the archive of what is in it.
    """
    from orlop import archive
    from orlop.cli.progress import display
    from orlop.cli.terminal import chunks

    if file == "-" and sys.stdin.isatty():
        raise usage("an archive is expected on standard input, which is a terminal")
    descriptor = STDIN if file == "-" else os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    if stat.S_ISDIR(os.fstat(descriptor).st_mode):
        data = archive.stream(archive.tree(Path(file)))
    else:
        data = chunks(descriptor)
    with display(quiet=quiet) as shown:
        found = await client.images.import_(
            data,
            name=name,
            snapshotter=snapshotter,
            unpack=not no_unpack,
            discard_unpacked=discard_unpacked,
            progress=shown.step,
        )
    if output == "json":
        show(found)
    else:
        for image in found:
            click.echo(printable(image.name))


@verb("export")
@click.option(
    "-o", "--output", "file", metavar="FILE", help="Write to this file; to standard output without."
)
@click.option("--platform", metavar="OS/ARCH", help="The platform to write; all that are here without.")
@click.option("--all-platforms", is_flag=True, help="Fail unless all of the images is here.")
@click.option("--skip-missing", is_flag=True, help="Write manifests, too, whose parts are not here.")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@with_client
async def export(
    client: Client,
    *,
    file: str | None,
    platform: str | None,
    all_platforms: bool,
    skip_missing: bool,
    names: tuple[str, ...],
) -> None:
    """Write images to one archive, an OCI layout that Docker and podman read as well."""
    data = client.images.export(
        names,
        platform=parse_platform(platform),
        all_platforms=all_platforms,
        skip_missing=skip_missing,
    )
    if file is None or file == "-":
        if sys.stdout.isatty():
            raise usage("an archive is not for a terminal: give -o FILE or redirect the output")
        await copy(data, STDOUT)
        return
    with replacing(Path(file)) as descriptor:
        await copy(data, descriptor)


async def copy(data: AsyncIterator[bytes], descriptor: int) -> None:
    """Write a stream to a descriptor."""
    from orlop.cli.terminal import write

    async for chunk in data:
        await write(descriptor, chunk)


@contextmanager
def replacing(target: Path) -> Iterator[int]:
    """A descriptor to write a file by: whole in the end, or as it was. Devices are written directly."""
    if target.exists() and not target.is_file():
        descriptor = os.open(target, os.O_WRONLY | os.O_CLOEXEC)
        try:
            yield descriptor
        finally:
            os.close(descriptor)
        return
    beside = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise Failure(f"{target}: {error.strerror}") from None
    try:
        try:
            yield descriptor
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        beside.replace(target)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


@verb("build")
@click.option("--from-dir", "source", required=True, metavar="DIR", help="The root filesystem.")
@click.option("--entrypoint", metavar="WORDS", help="The program and its first arguments, in shell quoting.")
@click.option("--cmd", metavar="WORDS", help="Arguments when the container gives none, in shell quoting.")
@click.option("-e", "--env", multiple=True, type=Pair(needs_value=True), help="Set a variable.")
@click.option("-u", "--user", default="", metavar="USER[:GROUP]", help="Who to run as.")
@click.option("-w", "--workdir", default="", metavar="DIR", help="The directory to start in.")
@click.option("--stop-signal", default="", metavar="SIGNAL", help="The signal that asks it to stop.")
@click.option("-l", "--label", "labels", multiple=True, type=Pair(), help="Set a label.")
@click.option("--platform", metavar="OS/ARCH", help="What it runs on; this machine's without.")
@output_option
@click.argument("name", metavar="NAME")
@with_client
async def build(
    client: Client, *, source: str, platform: str | None, output: str, name: str, **o: Any
) -> None:
    """Make an image of one layer out of a directory. The same tree makes the same image."""
    from orlop import archive
    from orlop.values import Build, ImageConfig

    root = existing_directory(source)
    config = ImageConfig(
        entrypoint=words(o["entrypoint"]),
        cmd=words(o["cmd"]),
        env=tuple(f"{key}={value}" for key, value in o["env"]),
        working_dir=o["workdir"],
        user=o["user"],
        stop_signal=o["stop_signal"],
        labels=dict(o["labels"]),
    )
    asked = Build(name=name, config=config, platform=parse_platform(platform))
    image = await client.images.build(asked, archive.stream(archive.tree(root)))
    show(image) if output == "json" else click.echo(f"{printable(image.name)} {image.digest}")


def existing_directory(path: str) -> Path:
    """The directory of that path.

    :raises Failure: there is none
    """
    found = Path(path)
    if not found.is_dir():
        raise Failure(f"{path}: {'not a directory' if found.exists() else 'no such directory'}")
    return found


def words(text: str | None) -> tuple[str, ...]:
    """A command line as words: shell quoting, or a JSON array as in a Dockerfile."""
    import json
    import shlex

    if not text:
        return ()
    try:
        if text.lstrip().startswith("["):
            found = json.loads(text)
            if all(isinstance(word, str) for word in found):
                return tuple(found)
            raise ValueError("a word is no string")
        return tuple(shlex.split(text))
    except ValueError as error:
        raise usage(f"{text!r} is no command line: {error}") from None
