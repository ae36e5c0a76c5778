"""Calls made at the same time: their answers have to be those of some order of them, one after the other."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from orlop_protos.containerd.services.content.v1 import content_pb2
from tests.model.client import Client, Where
from tests.model.model import Model, Stream, stream_digest
from tests.model.rig import SWEEPER, Rig
from tests.model.values import Labels, Refused

PATIENCE = 60


@dataclass
class State:
    """A model on one of the ways it may have gone, with the streams that are open."""

    model: Model
    streams: list[Stream]
    puts: dict[str, tuple[Stream, int]] = field(default_factory=dict)
    """Streams of the calls that are being made, by ref, and where they stood when they were opened."""

    def shape(self) -> str:
        """Equal for states that cannot be told apart."""
        streams = (*self.streams, *(stream for _, (stream, _) in sorted(self.puts.items())))
        return repr((self.model.shape(), [self.model.stream_shape(stream) for stream in streams]))


Step = Callable[[State], Any]
"""A part of a call that happens at one moment."""


@dataclass(frozen=True)
class Call:
    """A call that happens at one moment."""

    name: str
    args: Sequence[Any]
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def where(self) -> Where:
        first = self.args[0]
        return first if isinstance(first, Where) else Where(first)

    def __str__(self) -> str:
        return f"{self.name}({', '.join(map(repr, self.args[1:]))})"

    def make(self, client: Client, rig: Rig) -> list[Any]:
        """What the daemon answers to each of its parts, as far as they came."""
        return [outcome(lambda: getattr(client, self.name)(*self.args, **self.options))]

    def steps(self) -> Sequence[Step]:
        """Its parts."""
        return [lambda state: getattr(state.model, self.name)(*self.args, **self.options)]


class Collect(Call):
    """A collection: first what is known goes, then the bytes."""

    def __init__(self) -> None:
        super().__init__("collect", (SWEEPER,))

    def make(self, client: Client, rig: Rig) -> list[Any]:
        rig.collect()
        return [None, None]

    def steps(self) -> Sequence[Step]:
        return [lambda state: state.model.sweep(), lambda state: state.model.free()]


class Put(Call):
    """A blob brought in by an ingest of its own: opened, then written and committed."""

    def __init__(self, where: Where, ref: str, data: bytes, labels: Labels, expected: str) -> None:
        super().__init__("put", (where, ref, data, labels, expected))

    def _second(self, offset: int) -> Mapping[str, Any]:
        """What is sent after the daemon answered that it stands at ``offset``."""
        _, _, data, labels, _ = self.args
        return {"offset": offset, "data": b"" if offset else data, "labels": labels}

    def make(self, client: Client, rig: Rig) -> list[Any]:
        where, ref, _, _, expected = self.args
        writer = client.writer(where)
        try:
            request = content_pb2.WriteContentRequest(
                action=content_pb2.STAT, ref=ref, expected=expected, total=self._total
            )
            opened = outcome(lambda: writer.send(request))
            if isinstance(opened, Refused):
                return [opened]
            second = content_pb2.WriteContentRequest(action=content_pb2.COMMIT, **self._second(opened[0]))
            return [opened, outcome(lambda: writer.send(second))]
        finally:
            writer.close()

    @property
    def _total(self) -> int:
        return len(self.args[2]) if self.args[4] else 0

    def steps(self) -> Sequence[Step]:
        where, ref, _, _, expected = self.args

        def begin(state: State) -> tuple[int, str]:
            stream = state.model.open(where, ref, self._total, expected)
            state.puts[ref] = (stream, stream.offset)
            return stream.offset, stream_digest(stream)

        def commit(state: State) -> tuple[int, str]:
            stream, offset = state.puts[ref]
            try:
                return state.model.send(stream, **self._second(offset), commit=True, total=0, expected="")
            finally:
                state.model.close(stream)

        return [begin, commit]


def outcome(call: Callable[[], Any]) -> Any:
    """What a call gives, or its refusal."""
    try:
        return call()
    except Refused as refused:
        return refused


def alike(wanted: Any, found: Any) -> bool:
    """Whether two outcomes are the same: refusals are if their codes are."""
    if isinstance(wanted, Refused) and isinstance(found, Refused):
        return wanted.code == found.code
    return bool(wanted == found)


def make(calls: Sequence[Call], client: Client, rig: Rig) -> list[list[Any]]:
    """Make calls at the same time; what the daemon answered to the parts of each."""
    ready = threading.Barrier(len(calls))

    def begin(call: Call) -> list[Any]:
        ready.wait(PATIENCE)
        return call.make(client, rig)

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(begin, calls, timeout=PATIENCE))


def explain(start: State, calls: Sequence[Call], answers: Sequence[Sequence[Any]]) -> list[State]:
    """All that can have come of the calls, each in an order in which they would have answered so."""
    steps = [call.steps()[: len(answer)] for call, answer in zip(calls, answers, strict=True)]
    ways: dict[tuple[int, ...], dict[str, State]] = {(0,) * len(calls): {"": start}}
    # Level by level: how far each call is, and what may have come of it so far.
    for _ in range(sum(map(len, steps))):
        further: dict[tuple[int, ...], dict[str, State]] = {}
        for at, states in ways.items():
            for number, after in _next(at, steps):
                step, answer = steps[number][at[number]], answers[number][at[number]]
                for state in states.values():
                    tried = copy.deepcopy(state)
                    if alike(outcome(lambda step=step, tried=tried: step(tried)), answer):
                        further.setdefault(after, {})[tried.shape()] = tried
        ways = further
    return [state for states in ways.values() for state in states.values()]


def _next(at: tuple[int, ...], steps: Sequence[Sequence[Step]]) -> Iterator[tuple[int, tuple[int, ...]]]:
    for number, done in enumerate(at):
        if done < len(steps[number]):
            yield number, (*at[:number], done + 1, *at[number + 1 :])
