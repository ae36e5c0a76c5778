"""Registers the resolvers for directories and archives."""

from __future__ import annotations

from collections.abc import Iterable

from orlopd.plugin import Context, Provider, Resolver, hookimpl

from .docker import open_docker_archive
from .oci import open_archive, open_layout
from .push import PushingLayoutResolver
from .referrers import LayoutResolver
from .resolver import FileResolver


def _layout(context: Context) -> Resolver:
    return PushingLayoutResolver("oci-layout", open_layout)


def _archive(context: Context) -> Resolver:
    return LayoutResolver("oci-archive", open_archive)


def _docker(context: Context) -> Resolver:
    return FileResolver("docker-archive", open_docker_archive)


@hookimpl
def orlop_resolvers() -> Iterable[Provider[Resolver]]:
    """Offer one for each kind of place."""
    yield Provider("oci-layout", _layout)
    yield Provider("oci-archive", _archive)
    yield Provider("docker-archive", _docker)
