"""Whose turn it is when there are fewer workers than work."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import anyio

_MOST_PASSED = 8


@dataclass(eq=False)
class _Waiting:
    weight: int
    passed: int = 0
    """How many who came later went first."""
    turn: anyio.Event = field(default_factory=anyio.Event)


class Turns:
    """So many at a time; of those who wait, whoever has the most to do is next.

    The longest work first leaves the least for the end, when some workers have nothing to do any more. Nobody
    is passed by more than a few.

    :param places: how many at a time
    """

    def __init__(self, places: int) -> None:
        self._free = places
        self._waiting: list[_Waiting] = []

    @asynccontextmanager
    async def turn(self, weight: int) -> AsyncGenerator[None]:
        """A place for the length of the block; waits for it.

        :param weight: how much there is to do, in a measure that all share
        """
        if self._free:
            self._free -= 1
        else:
            await self._wait(_Waiting(weight))
        try:
            yield
        finally:
            self._pass_on()

    async def _wait(self, one: _Waiting) -> None:
        self._waiting.append(one)
        try:
            await one.turn.wait()
        except BaseException:
            if one in self._waiting:
                self._waiting.remove(one)
            else:
                self._pass_on()
            raise

    def _pass_on(self) -> None:
        if not self._waiting:
            self._free += 1
            return
        late = (one for one in self._waiting if one.passed >= _MOST_PASSED)
        chosen = next(late, None) or max(self._waiting, key=lambda one: one.weight)
        place = self._waiting.index(chosen)
        del self._waiting[place]
        for one in self._waiting[:place]:
            one.passed += 1
        chosen.turn.set()
