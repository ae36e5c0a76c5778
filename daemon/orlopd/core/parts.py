"""What the host hands to the core: the opened parts, the participants' hooks and the settings."""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol, TypeVar

from orlopd.core.spec_changes import SpecChange
from orlopd.plugin import ContentStore, Differ, Resolver, Runtime, Service, Snapshotter
from orlopd.plugin.errors import Internal, NotFound, OrlopError
from orlopd.plugin.mounting import MountHandler
from orlopd.plugin.processor import Processor
from orlopd.plugin.values import Container, Descriptor, Event
from orlopd.plugin.verifier import Verifier

T = TypeVar("T")


class PartStatus(enum.Enum):
    """How a plugin's part is."""

    OK = "ok"
    SKIPPED = "skipped"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class PartInfo:
    """What is known of one part, or of a plugin that never came to offer one.

    :param kind: containerd's spelling, ``io.containerd.snapshotter.v1``
    :param short: the config's word, ``snapshotter``
    :param reason: why it is not ok, in one line
    :param origin: the distribution with its version, or the file
    :param requires: the kinds it needs, in containerd's spelling
    """

    kind: str
    short: str
    id: str
    status: PartStatus
    reason: str = ""
    origin: str = ""
    requires: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    exports: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    capabilities: tuple[str, ...] = ()
    platforms: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The name that the config and the command line use: ``snapshotter.overlayfs``."""
        return f"{self.short}.{self.id}"

    @property
    def label(self) -> str:
        """What to call it in a sentence: ``plugin registry``, ``snapshotter.overlayfs``."""
        return f"plugin {self.id}" if self.short == "plugin" else self.name


class Catalog(Mapping[str, T]):
    """The open parts of one kind by id. Looking up takes aliases too; iterating gives ids alone."""

    def __init__(
        self,
        word: str,
        parts: Mapping[str, T],
        aliases: Mapping[str, str] | None = None,
        closed: Mapping[str, str] | None = None,
        patterns: Mapping[str, str] | None = None,
    ) -> None:
        """
        :param word: what a part is called in messages, ``snapshotter``
        :param aliases: further names and the ids they stand for
        :param closed: ids and aliases of parts that are not open, and why
        :param patterns: regular expressions of whole names that parts answer to, and their ids
        """
        self._word = word
        self._parts = dict(parts)
        self._aliases = dict(aliases or {})
        self._closed = dict(closed or {})
        self._patterns = {re.compile(pattern): real for pattern, real in (patterns or {}).items()}

    def __getitem__(self, name: str) -> T:
        real = self._aliases.get(name, name)
        if real not in self._parts and name not in self._closed:
            real = next((found for each, found in self._patterns.items() if each.fullmatch(name)), real)
        return self._parts[real]

    def __iter__(self) -> Iterator[str]:
        return iter(self._parts)

    def __len__(self) -> int:
        return len(self._parts)

    @property
    def aliases(self) -> Mapping[str, str]:
        """The further names, and the ids they stand for."""
        return MappingProxyType(self._aliases)

    def canonical(self, name: str) -> str:
        """The id behind a name that may be an alias; the name itself when it is neither."""
        return self._aliases.get(name, name)

    def require(self, name: str) -> T:
        """The part of that name.

        :raises NotFound: no open part has it; the message says why and which there are
        """
        part = self.get(name)
        if part is not None:
            return part
        raise NotFound(self.absence(name), resource=f"{self._word} {name}")

    def absence(self, name: str) -> str:
        """Why there is no open part of that name, in words."""
        if name in self._closed:
            return f"{self._word} {name} is not available: {self._closed[name]}"
        known = ", ".join(sorted(self._parts)) or "none"
        return f"{self._word} {name!r} not found; available: {known}"


class Hooks(Protocol):
    """The participants: what plugins do along the way. Each call awaits all of them, in order."""

    async def adjust_spec(
        self, namespace: str, container: Container, spec: dict[str, Any]
    ) -> Sequence[SpecChange]:
        """Let plugins change ``spec`` in place. What each of them changed, in order.

        :raises OrlopError: a plugin refused or broke; the container is not to be created
        """
        ...

    async def check_image(self, namespace: str, name: str, target: Descriptor) -> None:
        """Let plugins look at an image before its layers are fetched.

        :raises PermissionDenied: a plugin refused it
        :raises OrlopError: a plugin broke; the image is not to be fetched
        """
        ...

    async def event(self, event: Event) -> None:
        """Show plugins an event. What they raise is logged and goes no further."""
        ...

    async def info(self) -> Mapping[str, str]:
        """Fields that plugins add to ``info``. A plugin that breaks is logged and left out."""
        ...

    async def warnings(self) -> Sequence[str]:
        """What plugins have to say about this machine. A plugin that breaks is logged and left out."""
        ...


class ImageChecks:
    """What an image must pass before it comes in: the verifiers, then the participants."""

    def __init__(self, verifiers: Sequence[Verifier], hooks: Hooks) -> None:
        self._verifiers = verifiers
        self._hooks = hooks

    async def check_image(self, namespace: str, name: str, target: Descriptor) -> None:
        """:raises PermissionDenied: one refused it. :raises OrlopError: one broke, which counts as much"""
        for verifier in self._verifiers:
            try:
                await verifier.verify(namespace, name, target)
            except OrlopError:
                raise
            except Exception as error:
                raise Internal(f"a verifier broke over image {name}: {error!r}") from error
        await self._hooks.check_image(namespace, name, target)


class NoHooks:
    """Hooks that nobody takes part in."""

    async def adjust_spec(
        self, namespace: str, container: Container, spec: dict[str, Any]
    ) -> Sequence[SpecChange]:
        return ()

    async def check_image(self, namespace: str, name: str, target: Descriptor) -> None:
        return

    async def event(self, event: Event) -> None:
        return

    async def info(self) -> Mapping[str, str]:
        return {}

    async def warnings(self) -> Sequence[str]:
        return ()


@dataclass(frozen=True, slots=True)
class Parts:
    """The opened parts. Differs and resolvers come in the order in which they are asked."""

    content: ContentStore
    snapshotters: Catalog[Snapshotter]
    differs: Sequence[Differ]
    resolvers: Sequence[Resolver]
    runtimes: Catalog[Runtime]
    services: Sequence[Service] = ()
    mount_handlers: Catalog[MountHandler] = field(
        default_factory=lambda: Catalog[MountHandler]("mount_handler", {})
    )
    verifiers: Sequence[Verifier] = ()
    processors: Mapping[str, Processor] = field(default_factory=dict[str, Processor])
    hooks: Hooks = field(default_factory=NoHooks)
    plugins: Sequence[PartInfo] = ()


@dataclass(frozen=True, slots=True)
class Settings:
    """What the configuration says to the core.

    :param gc_startup_delay: seconds from the start to the first collection that nobody asked for
    :param gc_delay: seconds from a deletion to the collection that follows it
    :param gc_interval: seconds between collections without a deletion; 0 for never
    :param journal_events: how many events the journal keeps
    :param journal_bytes: how many bytes they may come to
    :param cdi_spec_dirs: folders of CDI specifications; of two with one device, the later folder's counts
    """

    root: Path
    state: Path
    snapshotter: str
    runtime: str
    content_sharing: str = "shared"
    discard_unpacked: bool = False
    gc_startup_delay: float = 0.1
    gc_delay: float = 0.1
    gc_interval: float = 900.0
    journal_events: int = 100_000
    journal_bytes: int = 64 << 20
    cdi_spec_dirs: tuple[Path, ...] = ()
    version: str = ""
    revision: str = ""
