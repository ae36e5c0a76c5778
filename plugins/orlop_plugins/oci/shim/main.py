"""``orlop-shim``: a shim's program, with the command line that containerd gives its shims."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("action", type=click.Choice(["start", "delete"]), required=False)
@click.option("-namespace", "--namespace", default="", help="The namespace of the task.")
@click.option("-id", "--id", "id", default="", help="The task's id.")
@click.option("-address", "--address", default="", help="containerd's socket.")
@click.option("-bundle", "--bundle", default="", help="The task's folder; the working directory by default.")
@click.option("-publish-binary", "--publish-binary", hidden=True, help="Taken for containerd's sake.")
@click.option("-socket", "--socket", "socket_path", hidden=True, help="Taken for containerd's sake.")
@click.option("-debug", "--debug", is_flag=True, hidden=True, help="Taken for containerd's sake.")
@click.option("-v", "-version", "--version", "version", is_flag=True, help="Say which version this is.")
@click.option("-info", "--info", is_flag=True, help="Say what this runtime is, as containerd asks.")
@click.option("--order", type=int, hidden=True, help="Serve what this descriptor says, as JSON.")
@click.option("--ready", type=int, hidden=True, help="Descriptor to answer on.")
def main(
    action: str | None,
    namespace: str,
    id: str,
    address: str,
    bundle: str,
    version: bool,
    info: bool,
    order: int | None,
    ready: int | None,
    **_: object,
) -> None:
    """A shim: one container's processes, terminal and log.

    Orlop starts it by itself. containerd starts it with "start" when it finds this program by the name
    containerd-shim-NAME-VERSION in its PATH, and a container's runtime is io.containerd.NAME.VERSION.
    """
    if order is not None and ready is not None:
        _serve(order, ready)
    from importlib.metadata import version as installed

    if version:
        click.echo(f"orlop-shim {installed('orlop-plugins')}")
        return
    if info:
        from orlop_protos.containerd.types import introspection_pb2

        told = introspection_pb2.RuntimeInfo(
            name="io.containerd.orlop.v2",
            version=introspection_pb2.RuntimeVersion(version=installed("orlop-plugins")),
        )
        sys.stdout.buffer.write(told.SerializeToString())
        return
    if action is None:
        raise click.UsageError("want an action: start or delete")
    from orlopd.plugin.errors import OrlopError

    from . import outside

    call = outside.Call(namespace, id, address, Path(bundle or os.getcwd()))  # noqa: PTH109
    try:
        if action == "start":
            given = sys.stdin.buffer.read(outside.MOST_INPUT)
            answer = outside.start(call, given, os.environ)
        else:
            answer = outside.delete(call)
    except (OrlopError, OSError) as error:
        click.echo(f"orlop-shim: {error}", err=True)
        sys.exit(1)
    sys.stdout.buffer.write(answer)


def _serve(order_fd: int, ready: int) -> None:
    """Become the shim that the order asks for. Does not return."""
    from .serve import Order, prepare, serve

    prepare()
    with os.fdopen(order_fd, "rb") as file:
        order = Order.unpack(file.read())
    if os.fork():  # the shim belongs to init
        os._exit(0)
    serve(order, ready)


if __name__ == "__main__":
    sys.exit(main())
