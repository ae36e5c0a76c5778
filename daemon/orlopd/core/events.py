"""Events to whoever listens."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from orlopd.plugin.errors import FailedPrecondition, InvalidArgument, OrlopError, ResourceExhausted
from orlopd.plugin.values import Event, FieldValue, now

from .filters import Adaptor, FieldPath, Filter, in_map, parse
from .identifiers import check_identifier, check_namespace, quoted
from .journal import Gap, Journal
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

    def __init__(
        self, observers: Sequence[Observer] = (), *, backlog: int = BACKLOG, journal: Journal | None = None
    ) -> None:
        """
        :param observers: called with every event, one event after the other, by :meth:`run`
        :param journal: where every event is written down
        """
        self._journal = journal
        self._observers = tuple(observers)
        self._backlog = backlog
        self._subscribers: list[_Subscriber] = []

    async def publish(self, event: Event) -> None:
        """Hand out an event.

        :raises InvalidArgument: the namespace or the topic is malformed
        """
        check_namespace(event.namespace)
        check_topic(event.topic)
        # Written down and handed out without a pause between: whoever subscribes has it once, here or there.
        if self._journal is not None:
            self._journal.record(event)
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
        subscriber, receive = self._add(parse(filters))
        try:
            async with receive:
                yield self._drain(subscriber, receive)
        finally:
            self._remove(subscriber)

    @asynccontextmanager
    async def follow(
        self, filters: Sequence[str], *, since: datetime | None = None, until: datetime | None = None
    ) -> AsyncGenerator[AsyncIterator[Event | Gap]]:
        """As :meth:`subscribe`, after the events from ``since`` on that the journal has; none comes twice.

        A :class:`Gap` comes out where the journal does not have them all.

        :param until: when the iterator ends; in the past, when the journal's part is told
        :raises InvalidArgument: a filter is malformed
        :raises FailedPrecondition: there is no journal
        :raises ResourceExhausted: (from the iterator) this subscriber did not keep up and missed events
        :raises OrlopError: (from the iterator) the journal cannot be read
        """
        wanted = parse(filters)
        if since is not None and self._journal is None:
            raise FailedPrecondition("this daemon keeps no journal of events")
        subscriber, receive = self._add(wanted)
        past: AsyncIterator[Event | Gap] | None = None
        try:
            if since is not None and self._journal is not None:
                past = self._journal.read(since, self._journal.position)
            async with receive:
                yield self._replay(subscriber, receive, past, until)
        finally:
            self._remove(subscriber)

    async def _replay(
        self,
        subscriber: _Subscriber,
        receive: MemoryObjectReceiveStream[Event],
        past: AsyncIterator[Event | Gap] | None,
        until: datetime | None,
    ) -> AsyncIterator[Event | Gap]:
        if past is not None:
            async for item in past:
                if isinstance(item, Gap):
                    if until is None or item.since <= until:
                        yield item
                elif (until is None or item.at <= until) and subscriber.filter.match(adapt(item)):
                    yield item
        live = self._drain(subscriber, receive)
        while True:
            left = None if until is None else (until - now()).total_seconds()
            if left is not None and left <= 0:
                return
            event = None
            with anyio.move_on_after(left):
                event = await anext(live, None)
            if event is None:
                return
            if until is None or event.at <= until:
                yield event

    def _add(self, wanted: Filter) -> tuple[_Subscriber, MemoryObjectReceiveStream[Event]]:
        send, receive = anyio.create_memory_object_stream[Event](self._backlog)
        subscriber = _Subscriber(wanted, send)
        self._subscribers.append(subscriber)
        return subscriber, receive

    async def _drain(
        self, subscriber: _Subscriber, receive: MemoryObjectReceiveStream[Event]
    ) -> AsyncIterator[Event]:
        async for event in receive:
            yield event
        if subscriber.lost:
            raise ResourceExhausted(
                f"more than {self._backlog} events waited for this subscriber, later ones are lost",
                reason="SUBSCRIBER_TOO_SLOW",
                hint="subscribe again since the last event seen, or list what may have changed",
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
