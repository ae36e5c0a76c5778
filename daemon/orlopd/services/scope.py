"""Whom a call is for: the namespace and the lease of its headers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from orlopd.core.identifiers import check_namespace
from orlopd.core.scope import Scope
from orlopd.plugin.errors import FailedPrecondition

NAMESPACE_HEADER = "containerd-namespace"
LEASE_HEADER = "containerd-lease"
DEFAULT_NAMESPACE = "default"


ScopeOf = Callable[[Any], Scope]
"""Says whom a call is for, by its context."""


def scope_of(context: Any, *, default: str = "") -> Scope:
    """The scope that a call's headers name.

    :param context: the ``grpc.aio.ServicerContext``
    :param default: the namespace where the header is missing; without it the header is required
    :raises FailedPrecondition: no namespace was given
    :raises InvalidArgument: it is none by containerd's grammar
    """
    namespace = lease = ""
    for key, value in context.invocation_metadata() or ():
        if key == NAMESPACE_HEADER and not namespace:
            namespace = _text(value)
        elif key == LEASE_HEADER and not lease:
            lease = _text(value)
    namespace = namespace or default
    if not namespace:
        raise FailedPrecondition(
            "namespace is required: failed precondition",
            reason="NAMESPACE_REQUIRED",
            hint=f'Send the header "{NAMESPACE_HEADER}".',
        )
    check_namespace(namespace)
    return Scope(namespace, lease)


def engine_scope_of(context: Any) -> Scope:
    """The scope of a call to our own API, where the namespace "default" need not be named."""
    return scope_of(context, default=DEFAULT_NAMESPACE)


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode("utf-8", "replace")
