"""The live view of a demonstration at work, as a browser shows it."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("safedojo_ros.msg")

from browser import Browser, browser_program
from live_view_picture import SIZE, missing
from running_stack import RunningStack, simulated_stack

from safedojo_ros.nodes.stack.live_page import rerun_program
from safedojo_ros.nodes.stack.processes import node_process
from safedojo_ros.nodes.stack.registry import DEMO, VIEW

pytestmark = [
    pytest.mark.skipif(rerun_program() is None, reason="rerun is not installed"),
    pytest.mark.skipif(
        browser_program() is None,
        reason="no Chromium to look with; 'apt-get install chromium' brings one",
    ),
]
PATIENCE = 180.0
"""Seconds for the page: a processor draws it, beside the demonstration."""


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[RunningStack]:
    running = simulated_stack(tmp_path)
    child = node_process(VIEW, [DEMO.parameters_file], {"use_sim_time": True, "rate": 4.0})
    running.processes.children.append(child)
    try:
        running.processes.start_one(child)
        running.wait_for(lambda: len(running.listener.moves) > 3, "motion", 60.0)
        yield running
    finally:
        running.close()


def test_a_browser_shows_overview_cost_curve_gate_band_and_arm_of_a_demonstration(
    stack: RunningStack, tmp_path: Path
) -> None:
    """LIVE_VIEW_PICTURE names a file for the newest picture, to be looked at by a person."""
    diagnoses = stack.listener.diagnoses
    stack.wait_for(lambda: diagnoses.get("view_node", "").startswith("http"), "the page's address")
    costs = stack.listener.costs
    stack.wait_for(lambda: len(costs) > 12, "a curve")  # a picture before would be drawn in vain
    kept = Path(os.environ.get("LIVE_VIEW_PICTURE", str(tmp_path / "live_view.png")))
    end, lacking = time.monotonic() + PATIENCE, ["everything"]
    with Browser(diagnoses["view_node"], SIZE) as browser:
        while lacking and time.monotonic() < end:
            picture = browser.picture()
            cv2.imwrite(str(kept), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
            lacking = missing(picture)
    assert not lacking, f"not on the page: {', '.join(lacking)}; see {kept}"
    assert len(stack.listener.moves) > 3
