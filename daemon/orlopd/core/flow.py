"""Task groups whose failure is one error."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import cast

import anyio
from anyio.abc import TaskGroup

from orlopd.plugin.errors import OrlopError


@asynccontextmanager
async def task_group() -> AsyncGenerator[TaskGroup]:
    """As anyio's, but what comes out is the error that says most instead of a group of them.

    The first failure cancels the rest, so others in the group are its echoes.
    """
    try:
        async with anyio.create_task_group() as group:
            yield group
    except BaseExceptionGroup as failure:
        error = _telling(failure)
        raise error from error.__cause__


def _telling(failure: BaseExceptionGroup[BaseException]) -> BaseException:
    leaves = list(_leaves(failure))
    for leaf in leaves:
        if not isinstance(leaf, Exception):
            return leaf
    for leaf in leaves:
        if isinstance(leaf, OrlopError):
            return leaf
    return leaves[0]


def _leaves(failure: BaseException) -> list[BaseException]:
    if not isinstance(failure, BaseExceptionGroup):
        return [failure]
    group = cast("BaseExceptionGroup[BaseException]", failure)
    return [leaf for each in group.exceptions for leaf in _leaves(each)]
