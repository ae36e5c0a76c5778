"""Fixtures of the fault tests."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from tests.support.daemon import logs
from tests.support.registry import registry

from .clients import Archive
from .world import archives as make_archives


@pytest.fixture(scope="session")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Generator[list[Archive]]:
    """Small images, as archives and in a registry."""
    with registry() as running:
        yield make_archives(tmp_path_factory.mktemp("archives"), running)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        report.sections.extend(logs())
    return report
