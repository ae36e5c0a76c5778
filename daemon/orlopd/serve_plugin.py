"""``orlopd serve-plugin``: one part, on a socket, for another host."""

from __future__ import annotations

import dataclasses
import logging
import os
import re
from contextlib import AsyncExitStack

import anyio

from orlopd import version
from orlopd.config import Config, Loaded
from orlopd.config.model import ProxyPlugin
from orlopd.daemon import make_folder, watch_signals
from orlopd.host import Host
from orlopd.plugin import CONTENT, DIFFER
from orlopd.server import FolderLock, Server
from orlopd.server.notify import notify
from orlopd.server.sockets import check_free
from orlopd.services.served import KINDS, service_of

LOCK = "lock"
CONTENT_HOST = "serve-plugin-host"
"""What the host's content is called among the parts here."""

_log = logging.getLogger("orlopd")


async def run(loaded: Loaded, id: str, content: str) -> None:
    """Serve until SIGTERM or SIGINT.

    :param id: the part
    :param content: for a differ: the socket of the host that has the layers
    :raises ConfigError, HostError, LockError, SocketError, StartError, OrlopError: it cannot start
    """
    async with anyio.create_task_group() as watch:
        stop = anyio.Event()
        await watch.start(watch_signals, stop)
        async with AsyncExitStack() as stack:
            stack.callback(watch.cancel_scope.cancel)
            offer = Host(loaded).find_offer(id, KINDS)
            config = _own(loaded.config, offer.name, content if offer.kind == DIFFER else "")
            for path in config.sockets:
                check_free(path)
            for folder, mode in ((config.root, 0o700), (config.state, 0o711)):
                make_folder(folder, mode)
                stack.callback(FolderLock.take(folder / LOCK, f"the folder {folder}").release)
            server = Server(config, version(), namespaced=False)
            stack.callback(server.release)
            host = Host(dataclasses.replace(loaded, config=config))
            offer = host.find_offer(offer.name, KINDS)
            part = await stack.enter_async_context(host.open_one(offer))
            store = None
            if offer.kind == DIFFER and content:
                peer = host.find_offer(f"{CONTENT.short}.{CONTENT_HOST}", KINDS)
                store = await stack.enter_async_context(host.open_one(peer))
            await server.start([service_of(offer.kind, part, store).register])
            sockets = ", ".join(f"unix://{path}" for path in config.sockets)
            _log.info("orlopd %s serves %s on %s", version(), offer.name, sockets)
            notify("READY=1", f"MAINPID={os.getpid()}")
            await stop.wait()
            notify("STOPPING=1")
            await server.stop(config.shutdown_timeout)
        _log.info("stopped")


def _own(config: Config, name: str, content: str) -> Config:
    """The configuration of a process that has this one part, apart from the daemon's and its like."""
    folder = re.sub(r"[^A-Za-z0-9_.-]", "_", name)
    changes = {
        "root": config.root / "served" / folder,
        "state": config.state / "served" / folder,
        "required_plugins": [],
    }
    if content:
        host = ProxyPlugin(type="content", address=content)
        changes["proxy_plugins"] = {**config.proxy_plugins, CONTENT_HOST: host}
    return config.model_copy(update=changes)
