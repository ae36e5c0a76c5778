"""Parts behind a socket: what serves them, and what is at the other end."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from orlopd.config import Config
from orlopd.plugin.provider import Kind
from orlopd.plugin.remote import Peer
from orlopd.server import Server
from orlopd.services.served import service_of
from orlopd.testing._open import Factory, close_part, open_part
from tests.support.daemon import BIN

P = TypeVar("P")
_numbers = itertools.count()


def socket_path() -> str:
    """A path for a socket that nobody else takes."""
    return f"/tmp/orlop-served-{os.getpid()}-{next(_numbers)}.sock"


def proxied(
    kind: Kind[Any], inner: Callable[[Path], Any], outer: Callable[[Peer], P], *capabilities: str
) -> Factory[P]:
    """How to make a part that ``inner`` makes and that is used over a socket."""

    async def make(root: Path) -> P:
        address = socket_path()
        part = await open_part(inner, root)
        server = Server(Config(addresses=[address], socket_group=0), "test", namespaced=False)
        await server.start([service_of(kind, part).register])
        proxy: Any = outer(Peer("proxied", address, capabilities))
        close = proxy.aclose

        async def aclose() -> None:
            await close()
            await server.stop(5)
            await close_part(part)

        proxy.aclose = aclose
        return proxy

    return make


@contextlib.contextmanager
def serve_plugin(id: str, folder: Path, *arguments: str, address: str = "") -> Iterator[str]:
    """Run ``orlopd serve-plugin`` until the context is left; the path of its socket."""
    address = address or str(folder / f"{id}.sock")
    command = [BIN / "orlopd", "serve-plugin", id, "--address", address, *arguments]
    command += ["--root", folder / "root", "--state", folder / "state"]
    with (folder / f"{id}.log").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        deadline = time.monotonic() + 30
        while not Path(address).is_socket():
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError((folder / f"{id}.log").read_text())
            time.sleep(0.02)
        yield address
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
