"""What happens around every call: its span, its namespace, its errors, its end when the daemon stops."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Any

import anyio
import grpc
import grpc.aio
from opentelemetry.trace import Span

from orlopd.plugin.errors import OrlopError, Unavailable, Unimplemented
from orlopd.services.errors import code_of, plainly, to_error, to_status
from orlopd.services.scope import scope_of

from .tracing import Tracer, finish
from .writing import Writing

_log = logging.getLogger("orlopd.server")

_CONTAINERD = "/containerd.services."
# Facts about the daemon, the namespaces themselves, and events, which carry their namespace.
_WITHOUT_NAMESPACE = (
    "/containerd.services.version.",
    "/containerd.services.introspection.",
    "/containerd.services.namespaces.",
    "/containerd.services.events.",
)
_DETAILS = "grpc-status-details-bin"

Body = Callable[[], Awaitable[Any]]


class Interceptor(grpc.aio.ServerInterceptor):
    """Wraps every method of every service, plugins' included."""

    def __init__(self, tracer: Tracer, *, namespaced: bool = True) -> None:
        """:param namespaced: whether containerd's services want to know the namespace of a call"""
        self._tracer = tracer
        self._namespaced = namespaced
        self._wrapped: dict[str, tuple[Any, Any]] = {}
        self._endless: set[anyio.CancelScope] = set()
        self._stopping = False

    def stop(self) -> None:
        """End calls that have no end of their own (streams, waits) with UNAVAILABLE, now and from now on."""
        self._stopping = True
        for scope in tuple(self._endless):
            scope.cancel()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        handler: Any = await continuation(handler_call_details)
        if handler is None:
            return None
        method = str(handler_call_details.method)
        known = self._wrapped.get(method)
        if known is None or known[0] is not handler:
            known = self._wrapped[method] = handler, self._wrap(method, handler)
        return known[1]

    def _wrap(self, method: str, handler: Any) -> Any:
        request, response = handler.request_streaming, handler.response_streaming
        names = {
            (False, False): "unary_unary",
            (False, True): "unary_stream",
            (True, False): "stream_unary",
            (True, True): "stream_stream",
        }
        name = names[request, response]
        inner = getattr(handler, name)
        asynchronous = inspect.iscoroutinefunction(inner) or inspect.isasyncgenfunction(inner)
        if not asynchronous:
            if not getattr(inner, "__module__", "").endswith("_pb2_grpc"):
                # grpc.aio runs these in threads of its own.
                return handler
            inner = _unimplemented  # a method of the contract that the service leaves out
        make: Any = getattr(grpc, f"{name}_rpc_method_handler")
        outer = self._stream(method, inner) if response else self._unary(method, inner)
        return make(outer, handler.request_deserializer, _unless_bytes(handler.response_serializer))

    def _unary(self, method: str, inner: Any) -> Any:
        endless = method.endswith("/Wait")

        async def call(request: Any, context: Any) -> Any:
            return await self._scoped(method, context, lambda: inner(request, context), endless)

        return call

    def _stream(self, method: str, inner: Any) -> Any:
        async def write(request: Any, context: Any) -> None:
            async with aclosing(inner(request, context)) as responses:
                async for response in responses:
                    await context.write(response)

        body: Any = write if inspect.isasyncgenfunction(inner) else inner

        async def call(request: Any, context: Any) -> None:
            writing = Writing(context)

            async def whole() -> None:
                try:
                    await body(request, writing)
                finally:
                    await writing.settled()

            await self._scoped(method, context, whole, True)

        return call

    async def _scoped(self, method: str, context: Any, body: Body, endless: bool) -> Any:
        """Handle a call in a task of its own, cancelled by scope.

        gRPC cancels the task of a call, which no shield of anyio's holds off: what must not be cut in half
        would be. So its cancellation is passed on as one that shields know.
        """
        scope = anyio.CancelScope()
        task = asyncio.ensure_future(self._around(method, context, body, scope, endless))
        while True:
            try:
                return await asyncio.shield(task)
            except asyncio.CancelledError:
                if task.done():
                    raise
                scope.cancel()

    async def _around(
        self, method: str, context: Any, body: Body, scope: anyio.CancelScope, endless: bool
    ) -> Any:
        with self._tracer.call(method, context.invocation_metadata() or ()) as span:
            if endless:
                self._endless.add(scope)
            try:
                with scope:
                    if endless and self._stopping:
                        raise _stopping()
                    if (
                        self._namespaced
                        and method.startswith(_CONTAINERD)
                        and not method.startswith(_WITHOUT_NAMESPACE)
                    ):
                        scope_of(context)
                    result = await body()
                    finish(span, context.code() or grpc.StatusCode.OK)
                    return result
            except asyncio.CancelledError as error:
                if not scope.cancel_called:
                    # Nobody cancelled this call: the handler has a bug, and its client would wait for ever.
                    return await _abort(context, span, to_error(error, method), method)
            except grpc.aio.AbortError:
                finish(span, context.code() or grpc.StatusCode.UNKNOWN, context.details() or "")
                raise
            except Exception as error:
                if not (context.done() or scope.cancel_called):
                    return await _abort(context, span, to_error(error, method), method)
                # The client has gone: there is nobody to tell, and writing to it is what failed.
                _log.debug("%s ended after its client had gone: %r", method, error)
            finally:
                self._endless.discard(scope)
            if endless and self._stopping and not context.done():
                return await _abort(context, span, _stopping(), method)
            finish(span, grpc.StatusCode.CANCELLED)
            raise asyncio.CancelledError


def _unless_bytes(serialize: Any) -> Any:
    """Services may answer with a message's bytes, where making it whole would cost time and memory."""

    def either(message: Any) -> bytes:
        return message if isinstance(message, bytes) or serialize is None else serialize(message)

    return either


async def _unimplemented(request: Any, context: Any) -> None:
    raise Unimplemented("this method is not implemented")


def _stopping() -> OrlopError:
    return Unavailable("the daemon is stopping", reason="STOPPING", hint="Try again when it is back.")


async def _abort(context: Any, span: Span, error: OrlopError, method: str) -> None:
    status = to_status(error if method.startswith(_CONTAINERD) else plainly(error))
    code = code_of(error)
    finish(span, code, status.message)
    await context.abort(code, status.message, ((_DETAILS, status.SerializeToString()),))
