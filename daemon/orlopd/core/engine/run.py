"""Run: pull if missing, create, start and connect, as one call that is undone as one."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import anyio

from orlopd.core.progress import Report
from orlopd.core.references import parse_reference
from orlopd.core.scope import Scope
from orlopd.plugin.errors import NotFound, OrlopError
from orlopd.plugin.resolver import ResolveOptions
from orlopd.plugin.values import Container

from .context import Context
from .create import Creator
from .find import Finder
from .lifecycle import Lifecycle
from .model import ContainerSpec, OnCancel, PullPolicy, SourceKind, Window
from .processes import Processes, Session

log = logging.getLogger("orlopd.engine")

_NO_OPTIONS = ResolveOptions()


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What to run and how."""

    spec: ContainerSpec
    pull: PullPolicy = PullPolicy.MISSING
    attach: bool = True
    on_cancel: OnCancel = OnCancel.DETACH
    window: Window | None = None
    resolve: ResolveOptions = _NO_OPTIONS


class Runner:
    """Runs containers."""

    def __init__(
        self, context: Context, finder: Finder, creator: Creator, processes: Processes, lifecycle: Lifecycle
    ) -> None:
        self._context = context
        self._finder = finder
        self._creator = creator
        self._processes = processes
        self._lifecycle = lifecycle

    @asynccontextmanager
    async def run(
        self,
        scope: Scope,
        options: RunOptions,
        report: Report,
        created: Callable[[Container], Awaitable[None]],
    ) -> AsyncGenerator[Session]:
        """Pull as the policy says, create, start and connect. Leaving the block disconnects.

        A container that could not be started is removed again. Raises as pull, create and start.

        :param report: told how a pull comes along
        :param created: told when the container is made
        """
        async with self._context.leases.hold(scope) as leased:
            spec = await self.ensure_image(leased, options, report)
            container = await self._creator.create(leased, spec)
        started = False
        try:
            await created(container)
            async with self._processes.start(
                scope,
                container.id,
                attach=options.attach,
                window=options.window,
                on_cancel=options.on_cancel,
            ) as session:
                started = True
                yield session
        except BaseException:
            if not started:
                with anyio.CancelScope(shield=True), contextlib.suppress(NotFound):
                    try:
                        await self._lifecycle.remove(scope, container.id, force=True)
                    except OrlopError as error:
                        log.warning(
                            "container %s, not started, could not be removed: %s", container.id, error
                        )
            raise

    async def ensure_image(self, scope: Scope, options: RunOptions, report: Report) -> ContainerSpec:
        """Have the image here as the policy says. The spec, with the image's full name where it was pulled.

        :raises NotFound: it is not here and may not be pulled
        """
        spec = options.spec
        if spec.source.kind is not SourceKind.IMAGE or options.pull is PullPolicy.NEVER:
            return spec
        if options.pull is PullPolicy.MISSING:
            with contextlib.suppress(NotFound):
                image = await self._finder.image(scope, spec.source.value)
                # The name may be here with another platform's content.
                await self._context.stored.image_config(scope, image.target, spec.platform)
                return spec
        snapshotter = spec.snapshotter or await self._context.default_snapshotter(scope)
        image = await self._context.puller.pull(
            scope,
            parse_reference(spec.source.value).name,
            platform=spec.platform,
            snapshotter=snapshotter,
            options=options.resolve,
            report=report,
        )
        return replace(spec, source=replace(spec.source, value=image.name))
