"""One judgement: what is asked, remembered, and held, whoever asks for it."""

from collections.abc import Callable

import numpy as np
import pytest

from safedojo_ros.core.errors import ChunkRejected, ObservationRejected
from safedojo_ros.core.types import MAX_PROPOSALS, ActionChunk, Decision, Observation, proposals_of
from safedojo_ros.robot.gate.gate import GateConfig, SafetyGate
from safedojo_ros.robot.gate.judge import Asked, Judge
from safedojo_ros.robot.gate.zones import CLEAR, ZoneVerdict

NOW = 1_000_000_000
SEEN = Observation({}, np.arange(8.0), "go")


class Head:
    """P(contact) of a step is ten times how far it goes in metres; counts what it is asked."""

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.seconds: Callable[[], object] = lambda: None

    def step_cost(self, observations: list[Observation], actions: np.ndarray) -> np.ndarray:
        assert observations == [SEEN]
        assert actions.shape[:1] == (1,)
        self.asked.append(actions.shape[1])
        self.seconds()
        return 10 * np.abs(actions[..., 0])


class Remembering(Head):
    """The same head, and how often it looked."""

    def __init__(self) -> None:
        super().__init__()
        self.looked = 0

    def look(self, observation: Observation) -> None:
        assert observation is SEEN
        self.looked += 1


def proposals(*speeds: float, sequence: int = 1, committed: int = 0) -> list[ActionChunk]:
    return [
        ActionChunk(np.full((8, 7), v), 0.05, NOW + sequence - 1, sequence, committed=committed)
        for v in speeds
    ]


def gate(**config: float) -> SafetyGate:
    return SafetyGate(GateConfig(**({"detour_ratio": 0.0} | config)))  # type: ignore[arg-type]


def test_a_scene_is_looked_at_once_an_inference_and_remembered_until_it_is_forgotten() -> None:
    head, made = Head(), list[Remembering]()

    def remember(_: object) -> Remembering:
        made.append(Remembering())
        return made[-1]

    judge = Judge(gate(), remember)
    for sequence in (1, 2):
        chunks = proposals(0.05, 0.04, 0.01, sequence=sequence)
        result, asked = judge.decide(chunks, lambda: SEEN, head, 0.5, lambda: NOW)
        assert (result.chosen, result.tried, asked.observation) == (chunks[2], 3, SEEN)
    assert (len(made), made[0].looked, made[0].asked, head.asked) == (1, 2, [1] * 6, [])
    judge.forget()
    judge.decide(proposals(0.01), lambda: SEEN, head, 0.5, lambda: NOW)
    assert len(made) == 2
    judge.decide(proposals(0.01), lambda: SEEN, Head(), 0.5, lambda: NOW)
    assert len(made) == 3, "another head has seen nothing yet"


def test_another_scene_is_judged_as_the_first_one_was() -> None:
    """What costs of before keep held is let go, as each episode of an evaluation begins anew."""
    judge, head = Judge(gate(), lambda _: Remembering()), Head()
    decisions = []
    for sequence, speed in ((1, 0.05), (2, 0.01), (3, 0.01)):
        if sequence == 3:
            judge.begin_scene()
        chunks = proposals(speed, sequence=sequence)
        decisions.append(judge.decide(chunks, lambda: SEEN, head, 0.5, lambda: NOW)[0].decision)
    assert decisions == [Decision.HOLD, Decision.HOLD, Decision.ALLOW]


def rejecting() -> Observation:
    raise ObservationRejected("the camera sleeps")


def test_what_keeps_the_head_from_answering_is_a_hold_that_says_so() -> None:
    def failing() -> None:
        raise RuntimeError("out of memory")

    broken, clock = Head(), [0.0]
    broken.seconds = failing
    slow = Head()
    slow.seconds = lambda: clock.__setitem__(0, clock[0] + 0.15)
    for head, observe, words, fault in (
        (None, lambda: SEEN, "no safety head is loaded", ""),
        (Head(), rejecting, "the camera sleeps", ""),
        (broken, lambda: SEEN, "out of memory", "the safety head failed: RuntimeError"),
    ):
        result, asked = Judge(gate()).decide(proposals(0.01), observe, head, 0.5, lambda: NOW)
        assert result.decision == Decision.HOLD
        assert words in result.reason
        assert asked.fault.startswith(fault)
        assert not asked.answered
    judge = Judge(gate(), deadline=0.2, clock=lambda: clock[0])
    assert judge.decide(proposals(0.01), lambda: SEEN, slow, 0.5, lambda: NOW)[0].forwarded
    late, asked = judge.decide(
        proposals(0.05, 0.01, sequence=2), lambda: SEEN, slow, 0.5, lambda: NOW
    )
    assert "judging took 0.300 s" in late.reason, "of all that one inference asks"
    assert asked.answered


def test_zones_are_asked_from_where_the_robot_was_seen() -> None:
    def survey(actions: np.ndarray, state: np.ndarray, now: int) -> ZoneVerdict:
        assert (actions.shape, now) == ((8, 7), NOW)
        np.testing.assert_array_equal(state, SEEN.state)
        return CLEAR if actions[0, 0] < 0.015 else ZoneVerdict(Decision.HOLD, "zone")

    for speed, decision in ((0.01, Decision.ALLOW), (0.02, Decision.HOLD)):
        result, _ = Judge(gate()).decide(
            proposals(speed), lambda: SEEN, Head(), 0.5, lambda: NOW, survey
        )
        assert result.decision == decision


def test_a_detour_leaves_what_is_committed_as_it_is() -> None:
    (chunk,) = proposals(0.04, committed=1)
    result, _ = Judge(gate(detour_ratio=0.6)).decide(
        [chunk], lambda: SEEN, Head(), 0.5, lambda: NOW
    )
    assert result.detour
    apart = (np.asarray(result.judged.actions) - chunk.actions)[:, :3]
    assert not apart[:1].any()
    assert np.all(np.any(apart[1:] != 0.0, axis=1))


@pytest.mark.parametrize(
    ("values", "count", "length", "words"),
    [
        (56, 0, 8, "0 chunks are proposed, expected 1 to 16"),
        (56 * 17, MAX_PROPOSALS + 1, 8, "17 chunks are proposed"),
        (56, 2, 8, "56 numbers came for 2 x 8 actions of 7"),
        (55, 1, 8, "55 numbers came for 1 x 8"),
    ],
)
def test_a_message_whose_numbers_do_not_belong_together_is_rejected(
    values: int, count: int, length: int, words: str
) -> None:
    with pytest.raises(ChunkRejected, match=words):
        proposals_of(np.zeros(values), count, length)
    malformed = ActionChunk(np.zeros(values), observed_at=NOW, sequence=1, malformed=words)
    result, asked = Judge(gate()).decide([malformed], lambda: SEEN, Head(), 0.5, lambda: NOW)
    assert (result.decision, result.reason, asked) == (Decision.HOLD, words, Asked())


def test_proposals_come_best_first_and_what_is_committed_is_less_than_a_chunk() -> None:
    table = proposals_of(np.arange(112.0), 2, 8)
    assert (table.shape, table[0, 1, 0], table[1, 0, 0]) == ((2, 8, 7), 7.0, 56.0)
    for committed in (8, -1):
        (chunk,) = proposals(0.0, committed=committed)
        with pytest.raises(ChunkRejected, match=f"{committed} steps are committed, expected fewer"):
            chunk.validate()
    (chunk,) = proposals(0.0, committed=7)
    chunk.validate()
