"""The resolver: references to the places that serve them."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from anyio import to_thread

from orlopd.plugin import Credentials, Referrers, ResolveOptions
from orlopd.plugin.errors import FailedPrecondition, OrlopError, Unavailable
from orlopd.plugin.references import Reference, parse_reference

from . import answers
from .access import Access, can
from .auth import Authorizer, Find
from .config import HostConfig, RegistryConfig
from .endpoints import Endpoint, find_endpoints
from .lazy import handles
from .push import RegistryDestination
from .referrers import find_referrers
from .source import RegistrySource
from .transport import Transport
from .trust import TlsTrust

_DEFAULTS = ResolveOptions()


class RegistryResolver:
    """References to registries. See :class:`orlopd.plugin.PushingResolver` and
    :class:`orlopd.plugin.ReferringResolver`."""

    def __init__(self, config: RegistryConfig, log: logging.Logger) -> None:
        self._config = config
        self._log = log
        self._trust = TlsTrust()

    def handles(self, reference: str) -> bool:
        """See :func:`.lazy.handles`."""
        return handles(reference)

    @asynccontextmanager
    async def resolve(
        self, reference: str, options: ResolveOptions = _DEFAULTS
    ) -> AsyncGenerator[RegistrySource]:
        """See :class:`orlopd.plugin.Resolver`."""
        parsed = parse_reference(reference)
        async with AsyncExitStack() as stack:
            yield await self._first(parsed, await self._ways(stack, parsed, options))

    @asynccontextmanager
    async def push(
        self, reference: str, options: ResolveOptions = _DEFAULTS
    ) -> AsyncGenerator[RegistryDestination]:
        """See :class:`orlopd.plugin.PushingResolver`."""
        parsed = parse_reference(reference)
        async with AsyncExitStack() as stack:
            ways = await self._ways(stack, parsed, options, actions="pull,push")
            # To the registry itself, even where mirrors could take it: what is pushed is to be found by all.
            ways = sorted((way for way in ways if can(way, ["push"])), key=lambda way: way.endpoint.is_mirror)
            if not ways:
                raise _nowhere(parsed, "be pushed to")

            def permit(access: Access, sources: Sequence[str]) -> Authorizer:
                return self._authorizer(parsed, access.endpoint, options, "pull,push", sources)

            yield RegistryDestination(ways, permit)

    async def referrers(
        self, reference: str, artifact_type: str = "", options: ResolveOptions = _DEFAULTS
    ) -> Referrers:
        """See :class:`orlopd.plugin.ReferringResolver`."""
        parsed = parse_reference(reference)
        async with AsyncExitStack() as stack:
            ways = await self._ways(stack, parsed, options)
            digest = parsed.digest or (await self._first(parsed, ways)).descriptor.digest
            failed: list[tuple[Access, OrlopError]] = []
            for way in ways:
                if can(way, ["referrers"]):
                    try:
                        found = await find_referrers(way, digest, artifact_type)
                    except OrlopError as error:
                        if not way.endpoint.is_mirror and not isinstance(error, Unavailable):
                            raise
                        failed.append((way, error))
                    else:
                        return Referrers(parsed.name, digest, found)
            raise _worst(failed) or _nowhere(parsed, "be asked for referrers at")

    async def _ways(
        self, stack: AsyncExitStack, reference: Reference, options: ResolveOptions, *, actions: str = "pull"
    ) -> Sequence[Access]:
        host = self._config.hosts.get(reference.host, HostConfig())
        folders = [options.host_folder] if options.host_folder else self._config.host_folders
        endpoints = await to_thread.run_sync(
            find_endpoints, reference.host, options.plain_http or host.plain_http, folders
        )
        ways: list[Access] = []
        for endpoint in endpoints:
            address = endpoint.base.netloc.decode("ascii", "replace")
            called = f"{address}, a mirror of {reference.host}," if endpoint.is_mirror else reference.host
            transport = await stack.enter_async_context(
                Transport(called, endpoint, self._config, self._trust)
            )
            headers = {**({} if endpoint.is_mirror else options.headers), **endpoint.headers}
            authorizer = self._authorizer(reference, endpoint, options, actions)
            ways.append(Access(reference, endpoint, transport, authorizer, headers))
        return ways

    def _authorizer(
        self,
        reference: Reference,
        endpoint: Endpoint,
        options: ResolveOptions,
        actions: str,
        sources: Sequence[str] = (),
    ) -> Authorizer:
        host = self._config.hosts.get(reference.host, HostConfig())
        return Authorizer(
            reference.host,
            endpoint.base,
            reference.path,
            # A mirror is another host: it is shown what was given for it, if anything.
            None if endpoint.is_mirror else options.credentials,
            host.token_hosts,
            find=_finder(endpoint, options),
            actions=actions,
            sources=sources,
        )

    async def _first(self, reference: Reference, ways: Sequence[Access]) -> RegistrySource:
        """The source, resolved at the first place that has the reference."""
        failed: list[tuple[Access, OrlopError]] = []
        fetching = [way for way in ways if can(way, ["pull"])]
        words = ["resolve", "pull"] if reference.digest else ["resolve"]
        for way in ways:
            if not can(way, words):
                continue
            source = RegistrySource(way, fetching)
            try:
                await source.resolve()
            except OrlopError as error:
                if not way.endpoint.is_mirror and not isinstance(error, Unavailable):
                    raise
                failed.append((way, error))
                place = answers.where(way.endpoint.base)
                self._log.debug("%s does not serve %s: %s", place, reference.name, error.message)
            else:
                # Where the registry answers over plain HTTP on loopback, it is not asked over TLS as well.
                others = (
                    [] if way.endpoint.is_mirror else [each for each in ways if not each.endpoint.is_mirror]
                )
                source.avoid([*(each for each, _ in failed), *(each for each in others if each is not way)])
                return source
        raise _worst(failed) or _nowhere(reference, "be resolved at")


def _worst(failed: Sequence[tuple[Access, OrlopError]]) -> OrlopError | None:
    """What to tell of places that all failed: the registry's own word, not its mirrors'.

    On loopback, where it is asked twice, the first, unless TLS is what the second is about.
    """
    own = [error for way, error in failed if not way.endpoint.is_mirror]
    told = own or [error for _, error in failed]
    untrusted = [error for error in told if error.reason == answers.UNTRUSTED]
    return next(iter([*untrusted, *told]), None)


def _finder(endpoint: Endpoint, options: ResolveOptions) -> Find | None:
    lookup = options.lookup
    if lookup is None:
        return None

    async def find(challenges: Sequence[str]) -> Credentials | None:
        return await lookup(endpoint.base.netloc.decode("ascii", "replace"), challenges)

    return find


def _nowhere(reference: Reference, what: str) -> FailedPrecondition:
    return FailedPrecondition(
        f"the hosts.toml for {reference.host} leaves no place that {reference.name} may {what}",
        reason="NO_ENDPOINT",
        resource=f"image {reference.name}",
    )
