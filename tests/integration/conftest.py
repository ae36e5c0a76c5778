"""Fixtures of the integration tests, and the daemons' logs beside what failed."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from orlopd.testing.leftovers import Leftovers
from tests.support.daemon import Daemon, daemon, fresh_daemon, idle, logs
from tests.support.images import save_archive

__all__ = ["daemon", "fresh_daemon", "idle"]


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An archive of one image with busybox, ``docker.io/library/probe:latest``."""
    path = tmp_path_factory.mktemp("archive") / "probe.tar"
    return str(save_archive(path, "docker.io/library/probe:latest"))


@pytest.fixture(scope="session")
def image(daemon: Daemon, archive: str) -> str:
    """The image of ``archive`` in the shared daemon, by its familiar name.

    A container has run on it once, so that what the daemon starts when first needed is there.
    """
    daemon.must(daemon.orlop("import", archive))
    for snapshotter in ("overlayfs", "vfs"):
        daemon.must(daemon.orlop("run", "--rm", "--snapshotter", snapshotter, "probe", "true"))
    return "probe"


@pytest.fixture(autouse=True)
def nothing_left_behind(request: pytest.FixtureRequest) -> Generator[None]:
    """A test with the shared daemon leaves it as it found it; a daemon of its own checks at its end."""
    if "daemon" not in request.fixturenames:
        yield
        return
    request.getfixturevalue("image")
    daemon: Daemon = request.getfixturevalue("daemon")
    watch = Leftovers(str(daemon.folder), daemon.namespace, descriptors=False)
    yield
    watch.check()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        report.sections.extend(logs())
    return report
