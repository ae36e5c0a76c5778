"""Referrers: what a registry has that is about an image."""

from __future__ import annotations

from collections.abc import Sequence

from orlopd.plugin.errors import InvalidArgument, Unimplemented
from orlopd.plugin.resolver import Referrers, ReferringResolver, ResolveOptions, Resolver

_DEFAULTS = ResolveOptions()


class ReferrerLists:
    """Asks resolvers for referrers.

    :param resolvers: asked in this order whether a reference is theirs
    """

    def __init__(self, resolvers: Sequence[Resolver]) -> None:
        self._resolvers = resolvers

    async def find(
        self, reference: str, artifact_type: str = "", options: ResolveOptions = _DEFAULTS
    ) -> Referrers:
        """What refers to what ``reference`` points at, of one artifact type or of any.

        :raises InvalidArgument: malformed reference, or no resolver takes it
        :raises NotFound: the reference points at nothing
        :raises Unimplemented: where the reference points, nobody can tell
        :raises OrlopError: as the resolver has it
        """
        for resolver in self._resolvers:
            if resolver.handles(reference):
                if isinstance(resolver, ReferringResolver):
                    return await resolver.referrers(reference, artifact_type, options)
                raise Unimplemented(
                    f"references like {reference[:160]!r} are not asked for referrers", reason="NO_REFERRERS"
                )
        raise InvalidArgument(f"no resolver takes references like {reference[:160]!r}", reason="NO_RESOLVER")
