"""Beginning a plugin."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path

import click

KINDS = ("snapshotter",)
_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")


def _check_name(context: click.Context, parameter: click.Parameter, name: str) -> str:
    if not _NAME.fullmatch(name):
        raise click.BadParameter(
            f"{name!r} is no name for a plugin: want small letters, digits and single hyphens"
        )
    return name


@click.command("new")
@click.argument("kind", type=click.Choice(KINDS))
@click.argument("name", callback=_check_name)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="The folder to make; by default its name."
)
def new(kind: str, name: str, output: Path | None) -> None:
    """Write a distribution with a plugin that works, and its tests.

    Change it step by step: the tests say when it stops being right.
    """
    distribution = f"orlop-{kind}-{name}"
    words = {
        "NAME": name,
        "MODULE": distribution.replace("-", "_"),
        "CLASS": "".join(part.capitalize() for part in name.split("-")),
    }
    folder = output or Path(distribution)
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        raise click.ClickException(f"{folder} is there already; name another folder with --output") from None
    except OSError as error:
        raise click.ClickException(f"cannot make {folder}: {error.strerror}") from None
    for skeleton in sorted(resources.files("orlop.cli").joinpath("skeletons", kind).iterdir(), key=str):
        text = skeleton.read_text(encoding="utf-8")
        for word, meaning in words.items():
            text = text.replace(f"@{word}@", meaning)
        path = folder / skeleton.name.removesuffix(".in").replace("module", words["MODULE"])
        path.write_text(text, encoding="utf-8")
        click.echo(path)
