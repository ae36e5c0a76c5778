"""Registration of the registry resolver."""

from __future__ import annotations

from collections.abc import Iterable

from orlopd.plugin import Context, Provider, Resolver, hookimpl

from .config import RegistryConfig
from .lazy import LazyResolver


def open_resolver(context: Context) -> LazyResolver:
    """Make the resolver from its config section."""
    return LazyResolver(context.config, context.log)


@hookimpl
def orlop_resolvers() -> Iterable[Provider[Resolver]]:
    """Offer the resolver for registries."""
    yield Provider("registry", open_resolver, config=RegistryConfig)
