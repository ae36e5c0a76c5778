"""Events to whoever listens."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from orlopd.plugin.errors import InvalidArgument, OrlopError, ResourceExhausted
from orlopd.plugin.values import Event, FieldValue, now

from .filters import Adaptor, FieldPath, Filter, in_map, parse
from .identifiers import check_identifier, check_namespace, quoted
from .scope import Scope

log = logging.getLogger("orlopd.events")

Observer = Callable[[Event], Awaitable[None] | None]

BACKLOG = 16384
"""How many events a subscriber may be behind before it is cut off."""


@dataclass(eq=False, slots=True)
class _Subscriber:
    filter: Filter
    send: MemoryObjectSendStream[Event]
    lost: bool = False


class EventBus:
    """Takes events from everywhere and gives each subscriber those it asked for, in order.

    Publishing never waits for a subscriber: one that is too far behind is told so and cut off.
    """

    def __init__(self, observers: Sequence[Observer] = (), *, backlog: int = BACKLOG) -> None:
        """:param observers: called with every event, one event after the other, by :meth:`run`"""
        self._observers = tuple(observers)
        self._backlog = backlog
        self._subscribers: list[_Subscriber] = []

    async def publish(self, event: Event) -> None:
        """Hand out an event.

        :raises InvalidArgument: the namespace or the topic is malformed
        """
        check_namespace(event.namespace)
        check_topic(event.topic)
        adaptor = adapt(event)
        for subscriber in tuple(self._subscribers):
            if subscriber.filter.match(adaptor):
                try:
                    subscriber.send.send_nowait(event)
                except anyio.WouldBlock:
                    subscriber.lost = True
                    self._remove(subscriber)
                except anyio.BrokenResourceError:
                    self._remove(subscriber)

    async def emit(self, scope: Scope, topic: str, message: str, fields: Mapping[str, FieldValue]) -> None:
        """Publish something that just happened in the daemon itself."""
        await self.publish(Event(now(), scope.namespace, topic, message, fields))

    @asynccontextmanager
    async def subscribe(self, filters: Sequence[str] = ()) -> AsyncGenerator[AsyncIterator[Event]]:
        """Listen: what is published after the block was entered comes out of the iterator.

        Filters know ``topic``, ``namespace`` and ``event.FIELD``.

        :raises InvalidArgument: a filter is malformed
        :raises ResourceExhausted: (from the iterator) this subscriber did not keep up and missed events
        """
        wanted = parse(filters)
        send, receive = anyio.create_memory_object_stream[Event](self._backlog)
        subscriber = _Subscriber(wanted, send)
        self._subscribers.append(subscriber)
        try:
            async with receive:
                yield self._drain(subscriber, receive)
        finally:
            self._remove(subscriber)

    async def _drain(
        self, subscriber: _Subscriber, receive: MemoryObjectReceiveStream[Event]
    ) -> AsyncIterator[Event]:
        async for event in receive:
            yield event
        if subscriber.lost:
            raise ResourceExhausted(
                f"more than {self._backlog} events waited for this subscriber, later ones are lost",
                reason="SUBSCRIBER_TOO_SLOW",
                hint="subscribe again and list what may have changed",
            )

    def _remove(self, subscriber: _Subscriber) -> None:
        if subscriber in self._subscribers:
            self._subscribers.remove(subscriber)
        subscriber.send.close()

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Call the observers until cancelled. Nothing that one raises reaches anybody else."""
        if not self._observers:
            task_status.started()
            return
        reported = False
        while True:
            try:
                async with self.subscribe() as events:
                    if not reported:
                        task_status.started()
                        reported = True
                    async for event in events:
                        await self._observe(event)
            except ResourceExhausted as error:
                log.warning("the observers of events are too slow: %s", error)

    async def _observe(self, event: Event) -> None:
        for observer in self._observers:
            try:
                result = observer(event)
                if result is not None:
                    await result
            except OrlopError as error:
                log.warning("an observer of events failed at %s: %s", event.topic, error)
            except Exception:
                log.exception("an observer of events failed at %s", event.topic)


def check_topic(topic: str) -> str:
    """Return ``topic`` if it is a path of identifiers that starts with a slash.

    :raises InvalidArgument: it is not
    """
    if not topic.startswith("/") or topic == "/":
        raise InvalidArgument(
            f"topic {quoted(topic)} must start with '/' and have a component: invalid argument"
        )
    for component in topic[1:].split("/"):
        check_identifier(component, f"component of topic {quoted(topic)}:")
    return topic


def adapt(event: Event) -> Adaptor:
    """An event as filters see it."""

    def field(path: FieldPath) -> str | None:
        match path:
            case ("namespace",):
                return event.namespace or None
            case ("topic",):
                return event.topic or None
            case ("event", *rest):
                return _payload(event.fields, tuple(rest))
            case _:
                return None

    return field


def _payload(fields: Mapping[str, FieldValue], path: FieldPath) -> str | None:
    # As containerd's generated accessors: text, truth values, maps of text and messages of these; no numbers.
    if not path:
        return None
    value = fields.get(path[0])
    if isinstance(value, str):
        return value or None
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        if path[0] == "labels":
            return in_map(path[1:], {key: each for key, each in value.items() if isinstance(each, str)})
        return _payload(value, path[1:])
    return None
