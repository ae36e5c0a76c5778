"""What holds for all tests."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Generator

import pytest
from hypothesis import HealthCheck, settings

from tests.support.stubs import stale

# Started in the background of a script, this process ignores SIGINT, and so would all that the tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# What the tests start hundreds of times need not be compiled each time, whatever the environment says: a
# daemon starts in half the time.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# How long an example takes says more about the machine than about the code.
settings.register_profile("house", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("house")


def pytest_configure(config: pytest.Config) -> None:
    """Stubs of another contract fail in ways that do not tell it: a message lacks a field, a client waits."""
    if not hasattr(config, "workerinput") and (said := stale()):
        pytest.exit(said, returncode=pytest.ExitCode.USAGE_ERROR)


_KITS = ("tests/conformance/", "tests/thirdparty/", "tests/integration/test_task_matrix.py")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A cell of the kits that is skipped is one that nobody looked at: a failure."""
    report = yield
    if report.skipped and item.nodeid.startswith(_KITS):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped: {report.longrepr}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Nor is a file of cells skipped as a whole."""
    report = yield
    if report.skipped and collector.nodeid.startswith(_KITS):
        report.outcome = "failed"
        report.longrepr = f"{collector.nodeid} was skipped: {report.longrepr}"
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show which kit ran over which part, and how it went."""
    cells: dict[str, Counter[str]] = {}
    for outcome in ("passed", "failed", "error"):
        for report in terminalreporter.getreports(outcome):
            if report.nodeid.startswith(_KITS) and report.nodeid.count("::") == 2:
                path, name, _ = report.nodeid.split("::")
                cells.setdefault(f"{path}::{name}", Counter())[outcome] += 1
    if cells:
        terminalreporter.section("kits")
        for name, counts in sorted(cells.items()):
            said = ", ".join(f"{count} {outcome}" for outcome, count in counts.items())
            terminalreporter.write_line(f"{name}: {said}")
