"""The content store kit over every content store there is."""

from __future__ import annotations

import pytest

from orlop_plugins.content_local.store import LocalStore
from orlopd.plugin.content import ContentStore
from orlopd.testing.content_store import ContentStoreKit, Factory


class TestLocal(ContentStoreKit):
    @pytest.fixture
    def factory(self) -> Factory[ContentStore]:
        return LocalStore.at
