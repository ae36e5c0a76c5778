"""References to images; the grammar is part of the plugin API, because resolvers need it too."""

from orlopd.plugin.references import DEFAULT_HOST, DEFAULT_TAG, Reference, parse_reference

__all__ = ["DEFAULT_HOST", "DEFAULT_TAG", "Reference", "parse_reference"]
