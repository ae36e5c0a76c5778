"""What a shell may offer for a word being typed: `_ORLOP_COMPLETE=bash_source orlop` prints the script.

Whatever goes wrong, nothing is offered and nothing is said: the person is in the middle of a line.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from orlop.sync import SyncClient

VARIABLE = "_ORLOP_COMPLETE"
_PATIENCE = 2.0


class ContainerName(click.ParamType):
    """A container, by its name or the beginning of its id."""

    name = "container"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        try:
            with _connected(ctx) as client:
                found = [container.name for container in client.containers.list()]
        except Exception:
            return []
        from click.shell_completion import CompletionItem

        taken = ctx.params.get(param.name or "") or ()
        return [CompletionItem(name) for name in found if name.startswith(incomplete) and name not in taken]


class ImageName(click.ParamType):
    """An image, by its name."""

    name = "name"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        try:
            with _connected(ctx) as client:
                found = [image.name for image in client.images.list()]
        except Exception:
            return []
        from click.shell_completion import CompletionItem

        short = [name.removeprefix("docker.io/").removeprefix("library/") for name in found]
        return [CompletionItem(name) for name in [*short, *found] if name.startswith(incomplete)]


CONTAINER = ContainerName()
IMAGE = ImageName()


def answer(cli: click.Command) -> int | None:
    """Answer a shell that asks; None where none does."""
    instruction = os.environ.get(VARIABLE)
    if not instruction:
        return None
    from click.shell_completion import shell_complete

    return shell_complete(cli, {}, "orlop", VARIABLE, instruction)


def _connected(ctx: click.Context) -> SyncClient:
    from orlop import sync

    given = ctx.find_root().params
    return sync.connect(given.get("address"), namespace=given.get("namespace"), timeout=_PATIENCE)
