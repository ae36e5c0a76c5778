"""The daemon from start to end: lock, open plugins and core, serve, and all of that backwards."""

from __future__ import annotations

import gc
import logging
import os
import signal
import stat
import time
from contextlib import AsyncExitStack, ExitStack, suppress
from pathlib import Path

import anyio

from orlopd import memory, revision, version
from orlopd.config import Config, Loaded
from orlopd.config.paths import makeshift_runtime_dir
from orlopd.core.core import Core
from orlopd.core.parts import Parts, PartStatus, Settings
from orlopd.host import Host
from orlopd.plugin.provider import RUNTIME, SNAPSHOTTER
from orlopd.server import FolderLock, Server, tracing
from orlopd.server.notify import notify
from orlopd.server.sockets import check_free
from orlopd.services import all_services

LOCK = "lock"

_log = logging.getLogger("orlopd")


class StartError(Exception):
    """The daemon cannot start. The message is one line."""


async def run(loaded: Loaded) -> None:
    """Serve until SIGTERM or SIGINT.

    :raises StartError, ConfigError, HostError, LockError, SocketError, OrlopError: it cannot start
    """
    begun = time.monotonic()
    config = loaded.config
    async with anyio.create_task_group() as watch:
        stop = anyio.Event()
        await watch.start(watch_signals, stop)
        async with AsyncExitStack() as stack:
            stack.callback(watch.cancel_scope.cancel)
            # Asking now for what is claimed below, and reading the plugins' config, keeps a start in vain
            # from making folders.
            for folder in (config.root, config.state):
                FolderLock.check_free(folder / LOCK, f"the folder {folder}")
            for path in config.sockets:
                check_free(path)
            host = Host(loaded)
            if makeshift_runtime_dir() in config.state.parents:
                _make_makeshift(makeshift_runtime_dir())
            with ExitStack() as locks:
                for folder, mode in ((config.root, 0o700), (config.state, 0o711)):
                    make_folder(folder, mode)
                    locks.callback(FolderLock.take(folder / LOCK, f"the folder {folder}").release)
                stack.push(locks.pop_all())
            server = Server(config, version())
            stack.callback(server.release)
            tracing.configure_from_environment()
            stack.callback(tracing.flush)
            parts = await stack.enter_async_context(host.open())
            core = await stack.enter_async_context(Core.open(_settings(config, host), parts))
            services = [*all_services(core), *parts.services]
            await server.start([service.register for service in services])
            gc.freeze()
            gc.enable()
            memory.keep_freed()
            _report(config, host, parts, time.monotonic() - begun)
            notify("READY=1", f"MAINPID={os.getpid()}")
            await stop.wait()
            notify("STOPPING=1")
            _log.info("stopping")
            core.engine.stop()
            await server.stop(config.shutdown_timeout)
        _log.info("stopped")


def _settings(config: Config, host: Host) -> Settings:
    return Settings(
        root=config.root,
        state=config.state,
        snapshotter=host.default(SNAPSHOTTER),
        runtime=host.default(RUNTIME),
        content_sharing=config.content_sharing,
        discard_unpacked=config.discard_unpacked,
        gc_startup_delay=config.gc.startup_delay,
        gc_delay=config.gc.delay,
        gc_interval=config.gc.interval,
        journal_events=config.events.journal_events,
        journal_bytes=config.events.journal_bytes,
        cdi_spec_dirs=tuple(config.cdi_spec_dirs),
        version=version(),
        revision=revision(),
    )


def _report(config: Config, host: Host, parts: Parts, seconds: float) -> None:
    for plugin in parts.plugins:
        if plugin.status is PartStatus.FAILED:
            _log.warning("%s failed: %s", plugin.label, plugin.reason)
        elif plugin.status is PartStatus.SKIPPED:
            _log.info("%s skipped: %s", plugin.label, plugin.reason)
    for kind, wanted, catalog in (
        (SNAPSHOTTER, config.snapshotter, parts.snapshotters),
        (RUNTIME, config.runtime, parts.runtimes),
    ):
        if wanted not in catalog:
            used = host.default(kind)
            instead = f"; {used} is used where a request names none" if used in catalog else ""
            _log.warning("the default %s%s", catalog.absence(wanted), instead)
    if os.geteuid() != 0:
        _log.warning("orlopd runs as user %d: for now containers need an orlopd of root's", os.geteuid())
    sockets = ", ".join(f"unix://{path}" for path in config.sockets)
    _log.info("orlopd %s serves on %s (started in %.2f s)", version(), sockets, seconds)


def _make_makeshift(path: Path) -> None:
    """Make the folder below /tmp that stands in for XDG_RUNTIME_DIR, or check that nobody else made it.

    :raises StartError: it is not this user's alone
    """
    try:
        with suppress(FileExistsError):
            path.mkdir(mode=0o700)
        found = path.lstat()
    except OSError as error:
        raise StartError(f"cannot use the folder {path}: {(error.strerror or str(error)).lower()}") from None
    if (
        not stat.S_ISDIR(found.st_mode)
        or found.st_uid != os.geteuid()
        or stat.S_IMODE(found.st_mode) != 0o700
    ):
        raise StartError(
            f"{path} is not a folder of user {os.geteuid()} with mode 0700, and others could meddle with"
            " what is in it: remove it, set XDG_RUNTIME_DIR, or name another folder with --state"
        )


def make_folder(path: Path, mode: int) -> None:
    """Make a folder of the daemon's own, or check that it is one.

    One that is open to more than ``mode`` is closed only if nobody else keeps anything in it: a slip
    of the pen such as ``--root /tmp`` is not to lock everybody out of there.

    :raises StartError: it cannot be made, is no folder, or is somebody else's
    """
    try:
        path.mkdir(mode=mode, parents=True, exist_ok=True)
        found = path.stat()
        if not stat.S_ISDIR(found.st_mode):
            raise StartError(f"{path} is not a folder")
        if found.st_uid != os.geteuid():
            raise StartError(f"the folder {path} belongs to user {found.st_uid}, not to {os.geteuid()}")
        present = stat.S_IMODE(found.st_mode)
        if present & ~mode:
            entries = {entry.name for entry in path.iterdir()} - {"lost+found"}
            if entries and LOCK not in entries:
                raise StartError(
                    f"the folder {path} is open to others (mode {present:o}) and has files in it that are not"
                    " an orlopd's; name another one"
                )
            path.chmod(mode)
    except OSError as error:
        raise StartError(f"cannot use the folder {path}: {(error.strerror or str(error)).lower()}") from None


async def watch_signals(stop: anyio.Event, *, task_status: anyio.abc.TaskStatus[None]) -> None:
    """Set ``stop`` at the first SIGTERM or SIGINT; end the process at the second."""
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        task_status.started()
        async for number in signals:
            if stop.is_set():
                # The containers do not need this daemon, and the next one sweeps up after it.
                _log.warning("stopping at once: second %s", signal.Signals(number).name)
                os._exit(1)
            stop.set()
