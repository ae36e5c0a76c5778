"""``orlop-shim``: a shim in an interpreter of its own, for when there is no fork server."""

from __future__ import annotations

import sys

import click


@click.command()
@click.option(
    "--order", "order_fd", type=int, required=True, help="descriptor to read the order from, as JSON"
)
@click.option("--ready", type=int, required=True, help="descriptor to answer on")
def main(order_fd: int, ready: int) -> None:
    """Serve one container until it is deleted."""
    import os

    from .serve import Order, serve

    with os.fdopen(order_fd, "rb") as file:
        order = Order.unpack(file.read())
    if os.fork():  # the shim belongs to init
        os._exit(0)
    serve(order, ready)


if __name__ == "__main__":
    sys.exit(main())
