"""The names of plugins in the config, against those that there are."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from orlopd.config import Loaded, nearest
from orlopd.core.parts import PartInfo
from orlopd.plugin.mounting import MOUNT_HANDLER
from orlopd.plugin.processor import PROCESSOR
from orlopd.plugin.provider import CONTENT, DIFFER, KINDS, RESOLVER, RUNTIME, SNAPSHOTTER, Kind
from orlopd.plugin.verifier import VERIFIER

from .discover import PLUGIN, Offer

_CHOICES: tuple[tuple[Kind[Any], str], ...] = (
    (CONTENT, "content"),
    (SNAPSHOTTER, "snapshotter"),
    (RUNTIME, "runtime"),
    (DIFFER, "differs"),
    (RESOLVER, "resolvers"),
)
"""The keys that choose parts, and of which kind."""

_WORDS = {CONTENT.name: "content store"}

_log = logging.getLogger("orlopd.host")


def check_names(loaded: Loaded, offers: Sequence[Offer], broken: Sequence[PartInfo]) -> None:
    """Refuse names in the config that no plugin has.

    While a plugin cannot be loaded, nobody knows what it would have offered: a name that is like
    no other is a warning then.

    :raises ConfigError: there is one
    """
    config = loaded.config
    unloaded = [info for info in broken if info.kind == PLUGIN.name]
    known = {
        f"{offer.kind.short}.{name}"
        for offer in offers
        for name in (offer.provider.id, *offer.provider.aliases)
    } | {info.name for info in unloaded}
    named: list[tuple[str, tuple[str, ...]]] = [
        *((name, ("disabled_plugins",)) for name in config.disabled_plugins),
        *((name, ("required_plugins",)) for name in config.required_plugins),
        *(
            (f"{kind}.{part}", ("plugins", kind, part))
            for kind, parts in config.plugins.items()
            for part in parts
        ),
    ]
    for name, path in named:
        if name in known:
            continue
        where = f"section [{'.'.join(path)}]" if path[0] == "plugins" else f'key "{path[0]}"'
        kinds = [kind.short for kind in (*KINDS, MOUNT_HANDLER, PROCESSOR, VERIFIER, PLUGIN)]
        if name.partition(".")[0] not in kinds:
            word = name.partition(".")[0]
            message = f'{where}: unknown kind of plugin "{word}"{nearest(word, kinds)}'
            raise loaded.error(path, message)
        guess = nearest(name, known)
        message = f'{where}: no plugin offers "{name}"{guess}'
        if guess or not unloaded or path[0] == "required_plugins":
            raise loaded.error(path, message)
        _log.warning("%s (plugin %s cannot be loaded)", message, unloaded[0].id)


def check_choices(loaded: Loaded, offers: Sequence[Offer], broken: Sequence[PartInfo]) -> None:
    """Refuse a part chosen in the file that no plugin offers; as in :func:`check_names`.

    :raises ConfigError: there is one
    """
    unloaded = [info for info in broken if info.kind == PLUGIN.name]
    for kind, key in _CHOICES:
        if key not in loaded.config.model_fields_set:
            continue
        chosen: str | list[str] = getattr(loaded.config, key)
        known = [
            name
            for offer in offers
            if offer.kind == kind
            for name in (offer.provider.id, *offer.provider.aliases)
        ]
        for name in [chosen] if isinstance(chosen, str) else chosen:
            if name in known:
                continue
            guess = nearest(name, known)
            message = f'key "{key}": no plugin offers a {_WORDS.get(kind.name, kind.short)} "{name}"{guess}'
            if not guess and known:
                message += f" (there are: {', '.join(sorted(known))})"
            if not unloaded or (guess and name not in [info.id for info in unloaded]):
                raise loaded.error((key,), message)
            _log.warning("%s (plugin %s cannot be loaded)", message, unloaded[0].id)
