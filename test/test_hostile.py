"""A sample of the hostile sequences, and every fault of the simulated day once."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("ruckig", reason="ruckig is not installed")

from safedojo_ros.core.types import Decision
from safedojo_ros.robot.playback.control_loop import ControlLoop
from safedojo_ros.robot.playback.reference import Reference

sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks"))

import day
import hostile


def test_no_hostile_sequence_breaks_a_rule() -> None:
    counts = hostile.campaign(1, 120_000)
    assert counts["executed"] > 1_000, "the arm works in between"
    assert min(counts[what] for what in ("clock back", "second publisher", "repeated")) > 0


@pytest.mark.parametrize("obeyed", [Decision.ALLOW, Decision.SLOW])
def test_a_loop_that_overhears_the_gate_is_found_out(
    obeyed: Decision, monkeypatch: pytest.MonkeyPatch
) -> None:
    safety = ControlLoop.safety

    def deaf(self: ControlLoop, decision: Decision, *rest: Any) -> None:
        safety(self, min(decision, obeyed), *rest)

    monkeypatch.setattr(ControlLoop, "safety", deaf)
    with pytest.raises(hostile.RuleBroken):
        hostile.campaign(1, 60_000)


def test_a_motion_beyond_a_limit_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    towards = Reference.towards

    def faster(self: Reference, *given: Any) -> np.ndarray:
        return 1.1 * towards(self, *given)

    monkeypatch.setattr(Reference, "towards", faster)
    with pytest.raises(hostile.RuleBroken, match=r"velocity of 1\.\d+ times the limit"):
        hostile.campaign(1, 120_000)


@pytest.mark.parametrize("fault", day.FAULTS, ids=lambda fault: fault.name)
def test_a_fault_stops_the_arm_in_time_and_only_a_person_or_its_end_lets_it_go_on(
    fault: day.Fault,
) -> None:
    work = day.Day(0)
    for _ in range(10):
        work.period()
    work.help()
    day.put_in(work, fault)
