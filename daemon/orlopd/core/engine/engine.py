"""The engine: all of a container's life, for clients who want to know nothing of snapshots."""

from __future__ import annotations

import anyio
from anyio import to_thread
from anyio.abc import TaskStatus

from .context import Context
from .copy import Copier
from .create import Creator
from .find import Finder
from .health import HealthMonitor
from .inventory import Inventory
from .lifecycle import Lifecycle
from .processes import Processes
from .restart import Restarts
from .run import Runner
from .shims import Shims
from .supervisor import Supervisor
from .top import Top
from .update import Updater
from .volumes import Volumes


class Engine:
    """The engine's parts by what they do. The services call these; nothing else is between."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.finder = Finder(context)
        self.volumes = Volumes(context)
        self.creator = Creator(context, self.finder, self.volumes)
        self.processes = Processes(context, self.finder)
        self.lifecycle = Lifecycle(context, self.finder, self.processes)
        self.runner = Runner(context, self.finder, self.creator, self.processes, self.lifecycle)
        self.copier = Copier(context, self.finder)
        self.inventory = Inventory(context, context.content, self.finder, self.lifecycle)
        self.shims = Shims(context, self.finder)
        self.top = Top(self.finder, self.processes)
        self.updater = Updater(context, self.finder)
        restarts = Restarts(context, self.finder, self.processes)
        health = HealthMonitor(context, self.finder, self.processes)
        self._supervisor = Supervisor(context, self.lifecycle, self.processes, restarts, health)

    def stop(self) -> None:
        """Calls that are cancelled from now on are so because the daemon stops: processes are left alone."""
        self.context.stopping.set()

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Sweep up what an earlier daemon left, then watch over containers until cancelled.

        To be started when the tasks are recovered and before anything is served.
        """
        await to_thread.run_sync(self.context.folders.clean)
        await to_thread.run_sync(self.volumes.clean)
        async with anyio.create_task_group() as group:
            self.context.finisher.serve(group)
            await self._supervisor.run(task_status=task_status)
