"""Programs of the host that the runtime runs in a container's life: config.md#posix-platform-hooks."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

from orlopd.plugin.errors import InvalidArgument

from .types import Hook, Hooks


class HookStage(enum.Enum):
    """When a hook is run; the values are the specification's names."""

    PRESTART = "prestart"
    CREATE_RUNTIME = "createRuntime"
    CREATE_CONTAINER = "createContainer"
    START_CONTAINER = "startContainer"
    POSTSTART = "poststart"
    POSTSTOP = "poststop"


@dataclass(frozen=True, slots=True)
class SpecHook:
    """A hook of a request. ``args`` begins with the program's own name; ``timeout``: seconds, 0 for none."""

    stage: HookStage
    path: str
    args: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    timeout: int = 0


def build_hooks(asked: Sequence[SpecHook]) -> Hooks:
    """The spec's hooks, in the order in which they were asked for.

    :raises InvalidArgument: a path is not absolute, a time is negative, or a text has a zero byte
    """
    hooks = Hooks()
    for item in asked:
        if not item.path.startswith("/"):
            raise InvalidArgument(f"hook {item.path[:200]!r} is not an absolute path", reason="BAD_HOOK")
        if item.timeout < 0:
            raise InvalidArgument(f"hook {item.path[:200]!r}: its time is negative", reason="BAD_HOOK")
        if any("\0" in text for text in (item.path, *item.args, *item.env)):
            raise InvalidArgument(
                "a hook has a zero byte in its path, arguments or environment", reason="BAD_HOOK"
            )
        hook = Hook(path=item.path)
        if item.args:
            hook["args"] = list(item.args)
        if item.env:
            hook["env"] = list(item.env)
        if item.timeout:
            hook["timeout"] = item.timeout
        hooks.setdefault(item.stage.value, []).append(hook)
    return hooks
