"""orlop.engine.v1.ContainerService."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any

import anyio

from orlop_protos.orlop.engine.v1 import containers_pb2, containers_pb2_grpc, stream_pb2
from orlopd.core.core import Core
from orlopd.core.engine import Engine, ExecOptions, RunOptions, Session
from orlopd.core.engine.record import changes_of, config_of, name_of, spec_of
from orlopd.core.flow import task_group
from orlopd.core.logs import LogQuery
from orlopd.core.progress import BlobProgress, PullEvent
from orlopd.plugin.errors import FailedPrecondition, InvalidArgument, NotFound
from orlopd.plugin.runtime import Exit
from orlopd.plugin.values import Container
from orlopd.services.convert import to_timestamp
from orlopd.services.scope import engine_scope_of

from . import choices, image_messages, metrics, pages, settings, specs, stream_messages, streams, views
from .progress import Relay

_STREAMS = {
    1: containers_pb2.LOG_STREAM_STDOUT,
    2: containers_pb2.LOG_STREAM_STDERR,
}
_DEFAULT_TIMEOUT = 10.0
_SHORTEST_INTERVAL = 0.1
_LONGEST_DURATION = 10**9


# Streaming methods are coroutines that write; the stubs know generators alone.
_Base: Any = containers_pb2_grpc.ContainerServiceServicer


class ContainerService(_Base):
    """Containers for thin clients."""

    def __init__(self, core: Core) -> None:
        self._engine: Engine = core.engine

    def register(self, server: Any) -> Sequence[str]:
        containers_pb2_grpc.add_ContainerServiceServicer_to_server(self, server)
        return [containers_pb2.DESCRIPTOR.services_by_name["ContainerService"].full_name]

    # --- Streams ----------------------------------------------------------------------------------------

    async def Run(self, requests: AsyncIterator[Any], context: Any) -> None:
        scope = engine_scope_of(context)
        options = await streams.first(requests)
        wanted = RunOptions(
            spec=specs.container_spec(options.spec),
            pull=choices.pull_policy(options.pull),
            attach=not options.detach,
            on_cancel=choices.on_cancel(options.on_cancel),
            window=choices.window(options),
            resolve=choices.resolve_options(options),
        )

        async def send(event: PullEvent) -> None:
            if isinstance(event, BlobProgress):
                progress = image_messages.blob_progress(event)
                await context.write(containers_pb2.RunResponse(progress=progress))

        relay = Relay(send)

        async def created(container: Container) -> None:
            await relay.finish()
            made = containers_pb2.ContainerCreated(id=container.id, name=name_of(container))
            await context.write(containers_pb2.RunResponse(created=made))

        async with task_group() as group:
            group.start_soon(relay.run)
            async with self._engine.runner.run(scope, wanted, relay.report, created) as session:
                await context.write(containers_pb2.RunResponse(started=_started(session)))
                ended = await self._relay(session, requests, context, containers_pb2.RunResponse)
        await self._farewell(scope, session, ended, context, containers_pb2.RunResponse)

    async def Start(self, requests: AsyncIterator[Any], context: Any) -> None:
        scope = engine_scope_of(context)
        options = await streams.first(requests)
        async with self._engine.processes.start(
            scope,
            options.container,
            attach=options.attach,
            window=choices.window(options),
            on_cancel=choices.on_cancel(options.on_cancel),
        ) as session:
            await context.write(containers_pb2.StartResponse(started=_started(session)))
            ended = await self._relay(session, requests, context, containers_pb2.StartResponse)
        await self._farewell(scope, session, ended, context, containers_pb2.StartResponse)

    async def Attach(self, requests: AsyncIterator[Any], context: Any) -> None:
        scope = engine_scope_of(context)
        options = await streams.first(requests)
        async with self._engine.processes.attach(
            scope, options.container, scrollback=options.scrollback, window=choices.window(options)
        ) as session:
            attached = containers_pb2.Attached(terminal=session.terminal)
            await context.write(containers_pb2.AttachResponse(attached=attached))
            ended = await self._relay(session, requests, context, containers_pb2.AttachResponse)
        await self._farewell(scope, session, ended, context, containers_pb2.AttachResponse)

    async def Exec(self, requests: AsyncIterator[Any], context: Any) -> None:
        scope = engine_scope_of(context)
        options = await streams.first(requests)
        wanted = ExecOptions(
            args=tuple(options.args),
            env=tuple(options.env),
            working_dir=options.working_dir,
            user=options.user,
            terminal=options.terminal,
            stdin=options.stdin and not options.detach,
            window=choices.window(options),
        )
        async with self._engine.processes.exec(
            scope, options.container, wanted, attach=not options.detach
        ) as session:
            await context.write(containers_pb2.ExecResponse(started=_started(session)))
            ended = await self._relay(
                session, requests, context, containers_pb2.ExecResponse, ends_input=wanted.stdin
            )
        if ended is not None:
            output = stream_messages.stream_output(ended)
            await context.write(containers_pb2.ExecResponse(output=output))

    async def _relay(
        self, session: Session, requests: Any, context: Any, response: Any, *, ends_input: bool = False
    ) -> Exit | None:
        if session.attachment is None:
            return None

        def wrap(output: stream_pb2.StreamOutput) -> Any:
            return response(output=output)

        return await streams.relay(session, requests, context, wrap, ends_input=ends_input)

    async def _farewell(
        self, scope: Any, session: Session, ended: Exit | None, context: Any, response: Any
    ) -> None:
        """Tell the exit, after a container that asked for it is removed: who hears of it finds nothing."""
        if ended is None:
            return
        config = config_of(session.container)
        if config is not None and config.spec.auto_remove:
            await self._engine.lifecycle.auto_remove(scope, session.container.id)
        await context.write(response(output=stream_messages.stream_output(ended)))

    # --- Life -------------------------------------------------------------------------------------------

    async def Create(self, request: Any, context: Any) -> containers_pb2.CreateResponse:
        scope = engine_scope_of(context)
        container = await self._engine.creator.create(
            scope, specs.container_spec(request.spec), idempotency_key=request.idempotency_key
        )
        view = await self._engine.finder.view(scope, container)
        return containers_pb2.CreateResponse(container=views.container(view))

    async def Wait(self, request: Any, context: Any) -> containers_pb2.WaitResponse:
        ended = await self._engine.lifecycle.wait(engine_scope_of(context), request.container)
        return containers_pb2.WaitResponse(exit=stream_messages.process_exit(ended))

    async def Stop(self, request: Any, context: Any) -> containers_pb2.StopResponse:
        timeout = _seconds(request, "timeout", _DEFAULT_TIMEOUT)
        ended = await self._engine.lifecycle.stop(engine_scope_of(context), request.container, timeout)
        return containers_pb2.StopResponse(exit=stream_messages.process_exit(ended) if ended else None)

    async def Kill(self, request: Any, context: Any) -> containers_pb2.KillResponse:
        scope = engine_scope_of(context)
        await self._engine.lifecycle.kill(scope, request.container, request.signal.name, all=request.all)
        return containers_pb2.KillResponse()

    async def Pause(self, request: Any, context: Any) -> containers_pb2.PauseResponse:
        await self._engine.lifecycle.pause(engine_scope_of(context), request.container)
        return containers_pb2.PauseResponse()

    async def Resume(self, request: Any, context: Any) -> containers_pb2.ResumeResponse:
        await self._engine.lifecycle.resume(engine_scope_of(context), request.container)
        return containers_pb2.ResumeResponse()

    async def Update(self, request: Any, context: Any) -> containers_pb2.UpdateResponse:
        scope = engine_scope_of(context)
        container = await self._engine.updater.update(
            scope,
            request.container,
            settings.resources(request.resources),
            request.restart if request.HasField("restart") else None,
        )
        view = await self._engine.finder.view(scope, container)
        return containers_pb2.UpdateResponse(container=views.container(view))

    async def RemoveContainer(self, request: Any, context: Any) -> containers_pb2.RemoveContainerResponse:
        scope = engine_scope_of(context)
        gone = await self._engine.lifecycle.remove(scope, request.container, force=request.force)
        return containers_pb2.RemoveContainerResponse(id=gone)

    async def CopyIn(self, requests: AsyncIterator[Any], context: Any) -> containers_pb2.CopyInResponse:
        scope = engine_scope_of(context)
        async with streams.read_out(requests):
            options = await streams.first(requests)
            async with aclosing(streams.chunks(requests)) as pieces:
                written = await self._engine.copier.copy_in(scope, options.container, pieces)
        return containers_pb2.CopyInResponse(bytes=written)

    # --- Looking ----------------------------------------------------------------------------------------

    async def ListContainers(self, request: Any, context: Any) -> containers_pb2.ListContainersResponse:
        scope = engine_scope_of(context)
        states = views.container_states(request.states)
        found = await self._engine.finder.views(scope, request.filters, states)
        chosen, token = pages.page(
            found,
            lambda view: [view.created_at.timestamp(), view.id],
            request.page_size,
            request.page_token,
            descending=True,
        )
        kind = containers_pb2.Container
        return containers_pb2.ListContainersResponse(
            containers=[pages.masked(views.container(view), request.read_mask, kind) for view in chosen],
            next_page_token=token,
        )

    async def GetContainer(self, request: Any, context: Any) -> containers_pb2.GetContainerResponse:
        view, container = await self._engine.lifecycle.view(engine_scope_of(context), request.container)
        return containers_pb2.GetContainerResponse(
            container=views.container(view),
            oci_spec=json.dumps(spec_of(container)),
            spec_changes=[settings.change_message(each) for each in changes_of(container)],
        )

    async def Top(self, request: Any, context: Any) -> containers_pb2.TopResponse:
        found = await self._engine.top.top(engine_scope_of(context), request.container)
        return containers_pb2.TopResponse(processes=map(metrics.process, found))

    async def Logs(self, request: Any, context: Any) -> None:
        query = LogQuery(
            tail=request.tail if request.HasField("tail") else None,
            since=choices.moment(request, "since"),
            until=choices.moment(request, "until"),
        )
        if query.tail is not None and query.tail < 0:
            raise InvalidArgument("tail cannot be negative; leave it out for everything")
        scope = engine_scope_of(context)
        async with self._engine.lifecycle.logs(scope, request.container, query, follow=request.follow) as log:
            async for entry in log:
                await context.write(
                    containers_pb2.LogsResponse(
                        at=to_timestamp(entry.at), stream=_STREAMS[entry.fd], data=entry.data
                    )
                )

    async def Stats(self, request: Any, context: Any) -> None:
        scope = engine_scope_of(context)
        interval = _seconds(request, "interval", 1.0)
        if interval < _SHORTEST_INTERVAL:
            raise InvalidArgument(f"an interval of {interval:g} s is too short: 0.1 s is the least")
        told = False
        while True:
            try:
                task, sample = await self._engine.lifecycle.stats(scope, request.container)
            except (FailedPrecondition, NotFound):
                if not told:
                    raise
                return  # it has ended
            await context.write(metrics.stats(sample))
            told = True
            if request.once:
                return
            with anyio.move_on_after(interval):
                await task.wait()
                return


def _started(session: Session) -> containers_pb2.ProcessStarted:
    return containers_pb2.ProcessStarted(pid=session.started.pid, exec_id=session.started.exec_id)


def _seconds(request: Any, field: str, default: float) -> float:
    if not request.HasField(field):
        return default
    duration = getattr(request, field)
    seconds = duration.seconds + duration.nanos / 1e9
    if not 0 <= seconds <= _LONGEST_DURATION:
        raise InvalidArgument(f"{field} of {seconds:g} s is out of range")
    return seconds
