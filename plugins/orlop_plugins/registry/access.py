"""One repository at one endpoint: what every request to it has in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from orlopd.plugin.references import Reference

from .auth import Authorizer
from .endpoints import Endpoint
from .hosts import origin
from .transport import Ask, Transport

MANIFEST_TYPES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
MANIFEST_LIMIT = 8 << 20
ACCEPT = ", ".join((*MANIFEST_TYPES, "*/*"))


@dataclass(frozen=True, slots=True)
class Access:
    """A way to a repository.

    :param headers: shown to the endpoint alone
    """

    reference: Reference
    endpoint: Endpoint
    transport: Transport
    authorizer: Authorizer
    headers: Mapping[str, str]

    @property
    def repository(self) -> httpx.URL:
        """The repository's URL; ends with a slash."""
        return self.endpoint.base.join(f"{self.reference.path}/")

    def ask(self, method: str, path: str, what: str, **more: Any) -> Ask:
        """A request for a path below the repository, or a whole URL of an upload."""
        headers = {"Accept": ACCEPT if path.startswith("manifests/") else "*/*"} | more.pop("headers", {})
        url = self.repository.join(path)
        own = origin(url) == origin(self.endpoint.base)  # an upload may go on elsewhere
        if self.endpoint.namespace and own:
            url = url.copy_merge_params({"ns": self.endpoint.namespace})
        more.setdefault("authorizer", self.authorizer)
        return Ask(method, url, what, headers=headers, private=self.headers if own else {}, **more)


def media_type_of(headers: httpx.Headers) -> str:
    """The media type that an answer says it has."""
    return headers.get("content-type", "").partition(";")[0].strip().lower()


def can(access: Access, words: Sequence[str]) -> bool:
    """Whether an endpoint is there for one of these."""
    return any(word in access.endpoint.capabilities for word in words)
