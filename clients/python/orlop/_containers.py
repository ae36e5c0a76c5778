"""The daemon's containers."""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Sequence
from datetime import datetime

from orlop import _container_messages, _image_messages, _settings, _stream_messages, _times, values
from orlop._connection import WORK_SECONDS, Connection
from orlop._session import Session
from orlop_protos.orlop.engine.v1 import containers_pb2, containers_pb2_grpc, stream_pb2

STOP_SECONDS = 10.0


class Containers:
    """Make, start, talk to, watch, stop and remove containers. Every method may raise ``OrlopError``.

    A container is named by its id, a unique prefix of its id, or its name.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._stub = containers_pb2_grpc.ContainerServiceStub(connection.channel)

    # --- Sessions -------------------------------------------------------------------------------------------

    def run(
        self,
        spec: values.ContainerSpec,
        *,
        pull: values.PullPolicy = values.PullPolicy.MISSING,
        detach: bool = False,
        on_cancel: values.OnCancel = values.OnCancel.DETACH,
        window: values.WindowSize | None = None,
        credentials: values.Credentials | None = None,
        plain_http: bool = False,
    ) -> Session:
        """Pull if need be, create, start and stay connected; with ``detach`` the session ends after the
        start.

        Use the result as ``async with``. Its events tell the pull's progress and what was created as well.
        :raises ValueError: the spec names no source of a root filesystem, or more than one
        """
        options = containers_pb2.RunOptions(
            spec=_container_messages.spec_message(spec),
            pull=_container_messages.POLICIES[pull],
            detach=detach,
            on_cancel=_container_messages.ON_CANCEL[on_cancel],
            window=_stream_messages.window_message(window),
            credentials=_image_messages.credentials_message(credentials),
            plain_http=plain_http,
        )
        return Session(self._connection, self._stub.Run, containers_pb2.RunRequest, options)

    def start(
        self,
        container: str,
        *,
        attach: bool = False,
        on_cancel: values.OnCancel = values.OnCancel.DETACH,
        window: values.WindowSize | None = None,
    ) -> Session:
        """Start a container that is created or stopped; the session ends after the start unless ``attach`` is
        set.

        Use the result as ``async with``, and ``await session.ready()`` to know that it runs.
        """
        options = containers_pb2.StartOptions(
            container=container,
            attach=attach,
            on_cancel=_container_messages.ON_CANCEL[on_cancel],
            window=_stream_messages.window_message(window),
        )
        return Session(self._connection, self._stub.Start, containers_pb2.StartRequest, options)

    def attach(
        self, container: str, *, scrollback: bool = False, window: values.WindowSize | None = None
    ) -> Session:
        """Connect to a running container's main process, with ``scrollback`` to what it wrote lately too."""
        options = containers_pb2.AttachOptions(
            container=container, scrollback=scrollback, window=_stream_messages.window_message(window)
        )
        return Session(self._connection, self._stub.Attach, containers_pb2.AttachRequest, options)

    def exec(
        self,
        container: str,
        args: Sequence[str],
        *,
        env: Sequence[str] = (),
        working_dir: str = "",
        user: str = "",
        terminal: bool = False,
        stdin: bool = False,
        detach: bool = False,
        window: values.WindowSize | None = None,
    ) -> Session:
        """Run one more process in a running container; leaving the session early kills it."""
        options = containers_pb2.ExecOptions(
            container=container,
            args=args,
            env=env,
            working_dir=working_dir,
            user=user,
            terminal=terminal,
            stdin=stdin,
            detach=detach,
            window=_stream_messages.window_message(window),
        )
        return Session(self._connection, self._stub.Exec, containers_pb2.ExecRequest, options)

    # --- Life -----------------------------------------------------------------------------------------------

    async def create(self, spec: values.ContainerSpec, *, idempotency_key: str = "") -> values.Container:
        """Make a container without starting it. The same key returns the same container.

        :raises ValueError: the spec names no source of a root filesystem, or more than one
        """
        request = containers_pb2.CreateRequest(
            spec=_container_messages.spec_message(spec), idempotency_key=idempotency_key or uuid.uuid4().hex
        )
        response = await self._connection.unary(self._stub.Create, request, timeout=WORK_SECONDS)
        return _container_messages.container(response.container)

    async def copy_in(self, container: str, tar: AsyncIterable[bytes]) -> int:
        """Unpack a tar stream into the root of a container that does not run; returns the bytes written."""
        response = await self._connection.upload(
            self._stub.CopyIn,
            containers_pb2.CopyInRequest(options=containers_pb2.CopyInOptions(container=container)),
            tar,
            lambda chunk: containers_pb2.CopyInRequest(chunk=chunk),
        )
        return response.bytes

    async def wait(self, container: str) -> values.Exit:
        """Wait, as long as it takes, until the main process has ended."""
        request = containers_pb2.WaitRequest(container=container)
        return _stream_messages.exit_(
            (await self._connection.unary(self._stub.Wait, request, timeout=None)).exit
        )

    async def stop(self, container: str, *, timeout: float = STOP_SECONDS) -> values.Exit | None:
        """Ask a container to end, and kill it after ``timeout`` seconds. None when it was never started."""
        request = containers_pb2.StopRequest(container=container, timeout=_times.duration(timeout))
        response = await self._connection.unary(
            self._stub.Stop, request, timeout=timeout + self._connection.timeout
        )
        return _stream_messages.exit_(response.exit) if response.HasField("exit") else None

    async def kill(self, container: str, signal: str = "KILL", *, all: bool = False) -> None:
        """Send a signal to the main process, or to all processes."""
        request = containers_pb2.KillRequest(
            container=container, signal=stream_pb2.Signal(name=signal), all=all
        )
        await self._connection.unary(self._stub.Kill, request)

    async def pause(self, container: str) -> None:
        """Freeze a container."""
        await self._connection.unary(self._stub.Pause, containers_pb2.PauseRequest(container=container))

    async def resume(self, container: str) -> None:
        """Thaw a container."""
        await self._connection.unary(self._stub.Resume, containers_pb2.ResumeRequest(container=container))

    async def update(
        self, container: str, resources: values.Resources | None = None, *, restart: str | None = None
    ) -> values.Container:
        """Change limits and the restart policy, for good and, if the container runs, at once.

        Limits that are 0 or empty stay as they are, and so does the policy with None.
        """
        request = containers_pb2.UpdateRequest(
            container=container,
            resources=_settings.resources_message(resources or values.Resources()),
            restart=restart,
        )
        return _container_messages.container(
            (await self._connection.unary(self._stub.Update, request)).container
        )

    async def remove(self, container: str, *, force: bool = False) -> str:
        """Remove a container with its snapshot and log, with ``force`` though it runs; returns its id."""
        request = containers_pb2.RemoveContainerRequest(container=container, force=force)
        response = await self._connection.unary(self._stub.RemoveContainer, request, timeout=WORK_SECONDS)
        return response.id

    # --- Looking --------------------------------------------------------------------------------------------

    async def list(
        self, filters: Iterable[str] = (), *, states: Iterable[values.ContainerState] = ()
    ) -> tuple[values.Container, ...]:
        """All containers, or those that any of the containerd filters matches, in any of ``states``.

        The newest comes first.
        """
        found: list[values.Container] = []
        wanted = [_container_messages.STATES[state] for state in states]
        token = ""
        while True:
            request = containers_pb2.ListContainersRequest(filters=filters, states=wanted, page_token=token)
            response = await self._connection.unary(self._stub.ListContainers, request)
            found.extend(map(_container_messages.container, response.containers))
            token = response.next_page_token
            if not token:
                return tuple(found)

    async def get(self, container: str) -> values.ContainerDetails:
        """One container, with its OCI runtime spec."""
        request = containers_pb2.GetContainerRequest(container=container)
        response = await self._connection.unary(self._stub.GetContainer, request)
        return values.ContainerDetails(
            _container_messages.container(response.container),
            response.oci_spec,
            tuple(map(_settings.spec_change, response.spec_changes)),
        )

    async def top(self, container: str) -> tuple[values.Process, ...]:
        """The processes of a running container, by pid."""
        response = await self._connection.unary(
            self._stub.Top, containers_pb2.TopRequest(container=container)
        )
        return tuple(map(_container_messages.process, response.processes))

    async def logs(
        self,
        container: str,
        *,
        follow: bool = False,
        tail: int | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> AsyncGenerator[values.LogLine, None]:
        """What a container has written; with ``follow`` on until it ends. ``tail`` is a number of lines."""
        request = containers_pb2.LogsRequest(
            container=container,
            follow=follow,
            tail=tail,
            since=_times.timestamp(since),
            until=_times.timestamp(until),
        )
        async for response in self._connection.stream(self._stub.Logs, request):
            yield _container_messages.log_line(response)

    async def stats(
        self, container: str, *, once: bool = False, interval: float | None = None
    ) -> AsyncGenerator[values.Stats, None]:
        """What a container uses, every ``interval`` seconds (1 when None) until it ends."""
        request = containers_pb2.StatsRequest(
            container=container, once=once, interval=_times.duration(interval)
        )
        async for response in self._connection.stream(self._stub.Stats, request):
            yield _container_messages.stats(response)
