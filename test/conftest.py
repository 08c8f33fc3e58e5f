"""Property tests without a deadline; a test of running nodes that fails is run once more.

A busy machine makes property tests slow, not wrong. And it makes real processes late now and then:
a failed test of `nodes/` is run again with nodes of its own, and the summary names it. What fails
twice is a fault, and so is what fails after `MOST` tests of one run were run again.
"""

import os
from collections.abc import Generator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from _pytest.runner import runtestprotocol
from hypothesis import settings

if TYPE_CHECKING:
    from rclpy.context import Context

settings.register_profile("no_deadline", deadline=None)
settings.load_profile("no_deadline")

NODES = Path(__file__).resolve().parent / "nodes"
AGAIN = "rerun"
MOST = 3
RERUNS = pytest.StashKey[int]()
FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    """In place of pytest's own, for the tests of running nodes."""
    if NODES not in item.path.resolve().parents:
        return None
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    reports = runtestprotocol(item, nextitem=nextitem, log=False)
    reruns = item.session.stash.get(RERUNS, 0)
    if any(report.failed for report in reports) and reruns < MOST:
        item.session.stash[RERUNS] = reruns + 1
        for report in reports:
            if report.failed:
                report.outcome = AGAIN  # type: ignore[assignment]
                item.ihook.pytest_runtest_logreport(report=report)
        reports = runtestprotocol(item, nextitem=nextitem, log=False)
    for report in reports:
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Remembers a failure until the teardown."""
    report = yield
    item.stash[FAILED] = report.failed or (call.when != "setup" and item.stash.get(FAILED, False))
    return report


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item) -> None:
    """After a failure the module's fixtures end, too: nobody goes on with what it left.

    Nor with the real-time priority that an arm's node takes for the process that it is made in.
    """
    if os.sched_getscheduler(0) != os.SCHED_OTHER:
        with suppress(PermissionError):
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    if NODES in item.path.resolve().parents and item.stash.get(FAILED, False):
        item.session._setupstate.teardown_exact(None)


def pytest_report_teststatus(
    report: pytest.TestReport,
) -> tuple[str, str, tuple[str, dict[str, bool]]] | None:
    """R among the dots."""
    return (AGAIN, "R", ("RERUN", {"yellow": True})) if report.outcome == AGAIN else None


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Every test that was run again, and why."""
    for report in terminalreporter.stats.get(AGAIN, []):
        terminalreporter.section(f"run again: {report.nodeid}", yellow=True)
        terminalreporter.line(report.longreprtext)


@pytest.fixture(scope="module")
def context() -> "Iterator[Context]":
    """Of a ROS domain of the module's own, on this machine alone."""
    import rclpy
    from rclpy.context import Context

    from safedojo_ros.nodes.stack.dds import DomainLease
    from safedojo_ros.nodes.stack.ros_environment import prepare_environment

    prepare_environment(only_this_machine=True)
    own, lease = Context(), DomainLease()
    rclpy.init(context=own, domain_id=lease.number)
    yield own
    rclpy.try_shutdown(context=own)
    lease.release()
