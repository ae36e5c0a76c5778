"""Restart policies: when a container that has ended is to run again.

A policy is a label of the container, as containerd's restart monitor and nerdctl have it, so that it counts
for containers of every API: ``containerd.io/restart.policy`` is ``no``, ``always``, ``unless-stopped``,
``on-failure`` or ``on-failure:N``. That somebody stopped a container on purpose is a label as well.

``containerd.io/restart.loguri`` is not followed: clients copy an image's labels onto a container, and an
image must not choose a file or a program of the host. One that is started again has its log with us.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace
from datetime import datetime

from orlopd.core.scope import Scope
from orlopd.plugin.errors import InvalidArgument, OrlopError
from orlopd.plugin.values import Container, Labels, now

from .context import Context

POLICY_LABEL = "containerd.io/restart.policy"
STATUS_LABEL = "containerd.io/restart.status"
COUNT_LABEL = "containerd.io/restart.count"
STOPPED_LABEL = "containerd.io/restart.explicitly-stopped"

FIRST_DELAY = 0.1
LONGEST_DELAY = 60.0
HEALTHY = 10.0
"""Seconds after which a container counts as having started well."""


class When(enum.Enum):
    """When a container is started again."""

    NO = "no"
    ALWAYS = "always"
    UNLESS_STOPPED = "unless-stopped"
    ON_FAILURE = "on-failure"


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """When, and how often at most in a row; 0 is without limit."""

    when: When = When.NO
    limit: int = 0

    @classmethod
    def parse(cls, text: str) -> RestartPolicy:
        """:raises InvalidArgument: it is no policy"""
        name, colon, limit = text.partition(":")
        try:
            when = When(name or "no")
        except ValueError:
            when = None
        if when is None or (colon and not (when is When.ON_FAILURE and limit.isdecimal())):
            raise InvalidArgument(
                f"{text[:60]!r} is no restart policy: want no, always, unless-stopped, on-failure or "
                "on-failure:N",
                reason="BAD_RESTART_POLICY",
            )
        return cls(when, int(limit or 0))

    def __str__(self) -> str:
        return f"{self.when.value}:{self.limit}" if self.limit else self.when.value

    @property
    def labels(self) -> Labels:
        """What a container with this policy carries."""
        if self.when is When.NO:
            return {}
        return {POLICY_LABEL: str(self), STATUS_LABEL: "running"}

    def wants(self, *, failed: bool, stopped: bool, count: int, starting: bool) -> bool:
        """Whether a container that has ended is to run again.

        :param failed: it did not end with code 0, or nobody knows how
        :param stopped: somebody stopped it on purpose
        :param count: how often in a row it was started again
        :param starting: it is the daemon that comes back
        """
        if stopped and not (starting and self.when is When.ALWAYS):
            return False
        if self.when is When.ON_FAILURE:
            return failed and (not self.limit or count < self.limit)
        return self.when is not When.NO


def policy_of(container: Container) -> RestartPolicy:
    """A container's policy; none where its label makes no sense, which another client may have written."""
    text = container.labels.get(POLICY_LABEL, "")
    status = container.labels.get(STATUS_LABEL, "")
    if status == "stopped":
        return RestartPolicy()  # how a client of containerd's monitor lets go of a container
    try:
        # The older form: a wanted status alone means always.
        return RestartPolicy.parse(text or ("always" if status == "running" else "no"))
    except OrlopError:
        return RestartPolicy()


def count_of(container: Container) -> int:
    """How often in a row it was started again."""
    text = container.labels.get(COUNT_LABEL, "0")
    return int(text) if text.isdecimal() else 0


def delay_before(count: int) -> float:
    """Seconds to wait before a container is started again that was so ``count`` times in a row."""
    return min(FIRST_DELAY * 2 ** min(count, 20), LONGEST_DELAY)


def ran_well(started_at: datetime | None, ended_at: datetime | None) -> bool:
    """Whether a run was long enough for its end not to count among failures in a row."""
    if started_at is None or ended_at is None:
        return False
    return (ended_at - started_at).total_seconds() >= HEALTHY


async def note_stop(context: Context, scope: Scope, container: Container, *, stopped: bool) -> None:
    """Remember that somebody stopped a container on purpose, or started it; for those with a policy."""
    if policy_of(container).when is When.NO:
        return
    wanted = "true" if stopped else "false"
    if container.labels.get(STOPPED_LABEL, "false") != wanted:
        await set_labels(context, scope, container, {STOPPED_LABEL: wanted, COUNT_LABEL: "0"})


async def set_labels(context: Context, scope: Scope, container: Container, labels: Labels) -> Container:
    """Change some of a container's labels; as it is then."""
    if all(container.labels.get(key) == value for key, value in labels.items()):
        return container
    changed = replace(container, labels={**container.labels, **labels}, updated_at=now())
    return await context.containers.update(scope, changed, [f"labels.{key}" for key in labels])
