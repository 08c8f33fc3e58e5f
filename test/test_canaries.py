"""A new model is tried on what was just seen, and kept out with the reason."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from safedojo_ros.checkpoints.swap.head_canary import judge_head
from safedojo_ros.checkpoints.swap.policy_canary import OBSERVATIONS, ROUNDS, PolicyCanary
from safedojo_ros.checkpoints.swap.probation import Bars
from safedojo_ros.core.errors import CheckpointError, ChunkRejected, ObservationRejected
from safedojo_ros.core.types import Observation

CAMERAS = ("agentview", "wrist")
SEEN = Observation(
    {name: np.full((4, 4, 3), 9, np.uint8) for name in CAMERAS}, np.ones(8), "lift it"
)


class Clock:
    """Seconds, which pass only when a model takes them."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


CLOCK = Clock()


class Policy:
    """Moves sideways at one speed, after a delay (s)."""

    cameras, image_size = CAMERAS, 4

    def __init__(self, speed: float = 0.01, delay: float = 0.0, **more: Any) -> None:
        self.speed, self.delay, self.error = speed, delay, more.pop("error", None)
        self.asked: list[Observation] = []
        vars(self).update(more)

    def act(self, observation: Observation) -> np.ndarray:
        self.asked.append(observation)
        CLOCK.now += self.delay
        if self.error is not None:
            raise self.error
        return np.full((8, 7), self.speed)


def cost_of_speed(_: list[Observation], actions: np.ndarray) -> np.ndarray:
    if actions.shape[1] != 8:
        raise ChunkRejected(f"chunks have {actions.shape[1]} steps")
    return np.abs(actions[:, :, 0]) * 20.0


HEAD = SimpleNamespace(cost_m=3, step_cost=cost_of_speed)


class Trial:
    """A canary that has seen the running policy act, and what it says."""

    def __init__(self, load_head: Any = lambda name: HEAD, chunks: int = 6) -> None:
        self.said: list[str] = []
        self.running = Policy()
        self.canary = PolicyCanary(Bars(), Policy.act, load_head, self.said.append, CLOCK)
        for _ in range(chunks):
            self.canary.played(SEEN, self.running.act(SEEN), 0.002)

    def judge(self, policy: Policy, head: str = "h1") -> None:
        self.canary.judge(policy, self.running, head)


def test_a_policy_like_the_running_one_passes_on_the_recent_observations() -> None:
    policy = Policy()
    Trial().judge(policy)
    assert policy.asked == [SEEN] * (OBSERVATIONS + 1), "one more to warm up"


@pytest.mark.fault(
    "checkpoints",
    "a policy that is not finite, at its limits, too slow or costly",
    "refused by its canary",
)
@pytest.mark.parametrize(
    ("policy", "words"),
    [
        (Policy(np.nan), "not finite"),
        (Policy(0.06), "100% of its steps lie at the limits"),
        (Policy(delay=0.05), "it takes 50 ms a chunk, the old one 2 ms"),
        (Policy(0.03), "its predicted cost is 0.60, the bar is 0.40"),
        (Policy(cameras=("side",)), "it needs pictures of"),
        (Policy(image_size=8), "at 8 px"),
        (Policy(error=ObservationRejected("unknown sentence")), "refuses what the robot sees now"),
    ],
)
def test_what_is_not_fit_is_kept_out(policy: Policy, words: str) -> None:
    with pytest.raises(CheckpointError, match=words):
        Trial().judge(policy)


def test_a_slow_policy_may_try_again_since_the_machine_may_have_been_busy() -> None:
    slow = Policy(delay=0.05)
    with pytest.raises(CheckpointError, match="it takes 50 ms"):
        Trial().judge(slow)
    assert len(slow.asked) == 1 + ROUNDS * OBSERVATIONS
    late = Policy(delay=0.05)
    trial = Trial()

    def act(policy: Policy, seen: Observation) -> np.ndarray:
        policy.delay = 0.0 if len(policy.asked) >= (ROUNDS - 1) * OBSERVATIONS + 1 else 0.05
        return policy.act(seen)

    trial.canary._act = act
    trial.judge(late)


def test_chunks_that_the_safety_head_cannot_judge_keep_a_policy_out() -> None:
    trial = Trial()
    trial.canary._act = lambda policy, seen: policy.act(seen)[:5]
    with pytest.raises(CheckpointError, match="safety head h1 cannot judge it: chunks have 5"):
        trial.judge(Policy())


def test_without_a_safety_head_costs_are_not_compared_and_that_is_said() -> None:
    dear = Policy(0.03)
    Trial().judge(dear, head="")
    Trial(load_head=None).judge(dear)

    def missing(name: str) -> None:
        raise CheckpointError(f"no {name}")

    trial = Trial(load_head=missing)
    trial.judge(dear)
    assert trial.said == ["predicted costs were not compared: no h1"]


def test_the_safety_head_is_loaded_once_for_each_id() -> None:
    loaded: list[str] = []

    def load(name: str) -> SimpleNamespace:
        loaded.append(name)
        return HEAD

    trial = Trial(load_head=load)
    for head in ("h1", "h1", "h2"):
        trial.judge(Policy(), head)
    assert loaded == ["h1", "h2"]


def test_at_the_start_an_empty_scene_must_do() -> None:
    trial = Trial(chunks=0)
    trial.canary.judge(Policy(instructions=("stack",)), None)
    with pytest.raises(CheckpointError, match="not finite"):
        trial.canary.judge(Policy(np.nan), None)


def test_the_reference_is_of_the_running_policy_and_of_one_head() -> None:
    canary = Trial(chunks=3).canary
    for head, cost in (("h1", 0.9), ("h2", 0.1), ("h2", 0.3), ("h2", float("nan"))):
        canary.judged(head, cost)
    reference = canary.reference()
    assert (reference.seconds, reference.head) == (0.002, "h2")
    assert reference.cost == pytest.approx(0.2)
    canary.forget()
    assert (canary.reference().seconds, canary.reference().cost) == (None, None)


CHUNKS = [(SEEN, np.full((8, 7), 0.01))]


def head(costs: Any, **more: Any) -> SimpleNamespace:
    return SimpleNamespace(step_cost=lambda observations, actions: costs, **more)


def slow_head(observations: list[Observation], actions: np.ndarray) -> np.ndarray:
    CLOCK.now += 0.03
    return np.zeros((1, 8))


@pytest.mark.fault("checkpoints", "a safety head that cannot judge", "refused by its canary")
@pytest.mark.parametrize(
    ("model", "words"),
    [
        (head(np.full((1, 8), np.nan)), "not 8 probabilities"),
        (head(np.full((1, 8), 1.5)), "not 8 probabilities"),
        (head(np.zeros((1, 5))), "not 8 probabilities"),
        (head(np.zeros((1, 8)), cameras=("side",)), "it needs pictures of"),
        (SimpleNamespace(step_cost=slow_head), "the deadline is 0.02 s"),
    ],
)
def test_a_safety_head_that_cannot_judge_is_kept_out(model: SimpleNamespace, words: str) -> None:
    with pytest.raises(CheckpointError, match=words):
        judge_head(model, CHUNKS, CAMERAS, 4, 0.02, CLOCK)


def test_a_safety_head_that_judges_in_time_passes() -> None:
    judge_head(head(np.zeros((1, 8)), cameras=list(CAMERAS), image_size=4), CHUNKS, CAMERAS, 4, 1.0)
