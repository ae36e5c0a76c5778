"""Fixtures of the integration tests, and the daemons' logs beside what failed."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from tests.support.daemon import Daemon, daemon, fresh_daemon, idle, logs
from tests.support.images import save_archive

__all__ = ["daemon", "fresh_daemon", "idle"]


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An archive of one image with busybox, ``docker.io/library/probe:latest``."""
    path = tmp_path_factory.mktemp("archive") / "probe.tar"
    return str(save_archive(path, "docker.io/library/probe:latest"))


@pytest.fixture
def image(daemon: Daemon, archive: str) -> str:
    """The image of ``archive`` in the shared daemon, by its familiar name."""
    if "probe" not in daemon.must(daemon.orlop("images")):
        daemon.must(daemon.orlop("import", archive))
    return "probe"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        report.sections.extend(logs())
    return report
