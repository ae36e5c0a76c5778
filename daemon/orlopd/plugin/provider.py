"""How a plugin offers a part, and what it is given to make it."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Generic, Protocol, TypeVar

from anyio.abc import TaskGroup
from pydantic import BaseModel, ConfigDict

from .content import ContentStore
from .diff import Differ
from .resolver import Resolver
from .runtime import Runtime
from .service import Service
from .snapshots import Snapshotter

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


# No slots: with them Python 3.11 cannot call a frozen generic class by its parametrized name.
@dataclass(frozen=True)
class Kind(Generic[T]):
    """A kind of part. ``name`` is how containerd's Introspection spells it, ``short`` the config's word."""

    name: str
    short: str


CONTENT = Kind[ContentStore]("io.containerd.content.v1", "content")
SNAPSHOTTER = Kind[Snapshotter]("io.containerd.snapshotter.v1", "snapshotter")
DIFFER = Kind[Differ]("io.containerd.differ.v1", "differ")
RUNTIME = Kind[Runtime]("io.containerd.runtime.v2", "runtime")
RESOLVER = Kind[Resolver]("dev.orlop.resolver.v1", "resolver")
SERVICE = Kind[Service]("io.containerd.grpc.v1", "service")

KINDS: tuple[Kind[Any], ...] = (CONTENT, SNAPSHOTTER, DIFFER, RUNTIME, RESOLVER, SERVICE)


class Config(BaseModel):
    """Base of a plugin's config section: unknown keys are errors, values are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Context(Protocol):
    """What a provider is given to make its part."""

    @property
    def config(self) -> Any:
        """The validated config section, an instance of the provider's model."""
        ...

    @property
    def root(self) -> Path:
        """A folder of the part's own that outlives reboots; it exists, mode 0700."""
        ...

    @property
    def state(self) -> Path:
        """A folder of the part's own that a reboot empties; it exists, mode 0711.

        Short enough for a unix socket of up to 40 more characters.
        """
        ...

    @property
    def log(self) -> logging.Logger:
        """The part's logger."""
        ...

    @property
    def tasks(self) -> TaskGroup:
        """Owner of the part's background tasks; cancelled when the daemon stops."""
        ...

    def get(self, kind: Kind[T], id: str = "") -> T:
        """Another part that this provider requires; the default one of its kind without an id.

        :raises FailedPrecondition: it is not there or failed
        """
        ...


@dataclass(frozen=True, slots=True)
class Requirement:
    """A part that must be open first; any of its kind without an id."""

    kind: Kind[Any]
    id: str = ""


# No slots: with them Python 3.11 cannot call a frozen generic class by its parametrized name.
@dataclass(frozen=True)
class Provider(Generic[T_co]):
    """A part on offer.

    :param id: its name among its kind
    :param open: makes the part; sync or async. If the part has an ``aclose()`` coroutine, the host
        awaits it when the daemon stops
    :param config: the model of its config section ``[plugins.<short kind>.<id>]``
    :param requires: what must be open before
    :param probe: raises :class:`orlopd.plugin.errors.Skip` where this machine does not suit
    :param aliases: further names it answers to
    :param pattern: a regular expression; the part answers to whole names that match it, where no part has
        such a name
    :param exports: what it says about itself in Introspection
    :param capabilities: words that containerd's clients look for
    :param platforms: what it serves, for example ``linux/amd64``; this machine's when empty
    """

    id: str
    open: Callable[[Context], T_co | Awaitable[T_co]]
    config: type[BaseModel] = Config
    requires: Sequence[Requirement] = ()
    probe: Callable[[Context], None] | None = None
    aliases: tuple[str, ...] = ()
    pattern: str = ""
    exports: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    capabilities: tuple[str, ...] = ()
    platforms: tuple[str, ...] = ()
