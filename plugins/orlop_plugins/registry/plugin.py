"""Registration of the registry resolver."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from orlopd.plugin import Context, Provider, Resolver, hookimpl

from .config import RegistryConfig
from .resolver import RegistryResolver


def open_resolver(context: Context) -> RegistryResolver:
    """Make the resolver from its config section."""
    # These log URLs and headers, where signatures and tokens are.
    for name in ("httpx", "httpcore", "hpack"):
        logging.getLogger(name).setLevel(logging.WARNING)
    return RegistryResolver(context.config, context.log)


@hookimpl
def orlop_resolvers() -> Iterable[Provider[Resolver]]:
    """Offer the resolver for registries."""
    yield Provider("registry", open_resolver, config=RegistryConfig)
