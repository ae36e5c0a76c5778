"""Fixtures of the integration tests, and the daemons' logs beside what failed."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from tests.support.daemon import daemon, fresh_daemon, idle, logs

__all__ = ["daemon", "fresh_daemon", "idle"]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        report.sections.extend(logs())
    return report
