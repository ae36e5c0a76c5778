"""``binary://`` streams: a program of the operator's that takes a container's output.

It gets stdout and stderr to read as descriptors 3 and 4, says that it is ready by closing descriptor 5, and
finds CONTAINER_ID and CONTAINER_NAMESPACE in its environment. The query of the URI becomes its arguments.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from urllib.parse import parse_qsl, unquote, urlsplit

from orlopd.plugin.errors import DeadlineExceeded, FailedPrecondition, NotFound

from .reaper import Reaper
from .sinks import DescriptorSink, pipe_sink

_READY_DEADLINE = 10.0
_END_DEADLINE = 12.0


class LogDriver:
    """A running log driver and the sinks that feed it."""

    def __init__(self, uri: str, namespace: str, id: str, reaper: Reaper, resume: Callable[[], None]) -> None:
        parts = urlsplit(uri)
        program = unquote(parts.path)
        if not os.access(program, os.X_OK):
            raise NotFound(f"cannot start log driver {program!r}: no such program")
        self._must_speak = parts.scheme == "binary-v2"
        arguments = [word for pair in parse_qsl(parts.query, keep_blank_values=True) for word in pair if word]
        sink_out, out = pipe_sink(resume)
        sink_err, err = pipe_sink(resume)
        self.sinks: dict[int, DescriptorSink] = {1: sink_out, 2: sink_err}
        self._ready, say = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        os.set_blocking(say, True)
        env = {"CONTAINER_ID": id, "CONTAINER_NAMESPACE": namespace, "PATH": os.environ.get("PATH", "")}
        fds = (out, err, say)
        try:
            self._pid, self._ended = reaper.spawn_placed([program, *arguments], fds, env)
        except OSError as error:
            raise FailedPrecondition(f"cannot start log driver {program!r}: {error.strerror}") from error
        finally:
            for fd in fds:
                os.close(fd)

    async def ready(self) -> None:
        """Wait until the program has said that it is ready.

        :raises DeadlineExceeded: it did not within 10 s
        :raises FailedPrecondition: it ended instead
        """
        loop = asyncio.get_running_loop()
        readable = asyncio.Event()
        loop.add_reader(self._ready, readable.set)
        try:
            async with asyncio.timeout(_READY_DEADLINE):
                await readable.wait()
        except TimeoutError as error:
            raise DeadlineExceeded(f"the log driver was not ready within {_READY_DEADLINE:g} s") from error
        finally:
            loop.remove_reader(self._ready)
        if self._must_speak and not os.read(self._ready, 1):
            raise FailedPrecondition("the log driver ended before it was ready")

    def close(self) -> None:
        """End it; it gets some time to write what it holds."""
        os.close(self._ready)
        for sink in self.sinks.values():
            sink.close()
        loop = asyncio.get_running_loop()
        if not self._ended.done():
            loop.call_later(_END_DEADLINE, self._kill)

    def _kill(self) -> None:
        if not self._ended.done():
            os.kill(self._pid, signal.SIGKILL)
