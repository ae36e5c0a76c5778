"""The order in which parts are opened: what a part requires comes before it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from orlopd.plugin.provider import Requirement

from .discover import Offer


def candidates(requirement: Requirement, offers: Sequence[Offer]) -> list[Offer]:
    """The offers that could meet a requirement."""
    return [
        offer
        for offer in offers
        if offer.kind == requirement.kind
        and (not requirement.id or requirement.id in (offer.provider.id, *offer.provider.aliases))
    ]


def arrange(offers: Sequence[Offer]) -> tuple[list[Offer], Mapping[str, str]]:
    """Sort offers so that requirements come first, otherwise as they came.

    :returns: the order, and for each offer in a cycle its name with the cycle in words
    """
    order: list[Offer] = []
    cycles: dict[str, str] = {}
    path: list[Offer] = []
    done: set[str] = set()

    def visit(offer: Offer) -> None:
        if offer.name in done:
            return
        if offer in path:
            ring = [member.name for member in path[path.index(offer) :]]
            for start, name in enumerate(ring):
                turned = [*ring[start:], *ring[:start], name]
                cycles.setdefault(name, "it requires itself: " + " -> ".join(turned))
            return
        path.append(offer)
        for requirement in offer.provider.requires:
            for candidate in candidates(requirement, offers):
                visit(candidate)
        path.pop()
        done.add(offer.name)
        order.append(offer)

    for offer in offers:
        visit(offer)
    return order, cycles
