"""A safety head is examined before it may judge: a bad one changes nothing, and it is said why."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoint_directories import SPEC, write_source

from safedojo_ros.checkpoints.names import find_checkpoint
from safedojo_ros.checkpoints.store.store import CheckpointStore
from safedojo_ros.checkpoints.swap.head_exam import ExamBars, examine, examine_first, marks
from safedojo_ros.checkpoints.swap.hot_swap import HotSwap
from safedojo_ros.core.contact_examples import MAX_EXAMPLES, ContactExamples
from safedojo_ros.core.errors import CheckpointError
from safedojo_ros.core.types import ActionChunk, Decision, Episode, Observation
from safedojo_ros.data.lerobot.writer import EpisodeWriter
from safedojo_ros.learning.contact_examples import contact_examples
from safedojo_ros.models.contact_examples import EXAMPLES_FILE, read_examples, write_examples
from safedojo_ros.models.loading import load_safety
from safedojo_ros.models.safety_head import SafetyModel
from safedojo_ros.robot.gate.freshness import FreshnessConfig
from safedojo_ros.robot.gate.gate import GateConfig, SafetyGate

CAMERAS = ("agentview", "wrist")
H, SIDE = 8, 4
SECOND = 1_000_000_000


def contact_chunks(seed: int = 0, count: int = 48) -> ContactExamples:
    """Fast chunks touch, slow ones do not, in 12 scenes."""
    rng = np.random.default_rng(seed)
    touch = np.arange(count) % 2 == 1
    speed = np.where(touch, rng.uniform(0.02, 0.05, count), rng.uniform(0.0, 0.01, count))
    chunks = np.zeros((count, H, 7), np.float32)
    chunks[..., 1] = speed[:, None]
    return ContactExamples(
        CAMERAS,
        rng.integers(0, 256, (12, 2, SIDE, SIDE, 3), np.uint8),
        (np.arange(count) // 4).astype(np.int32),
        rng.normal(size=(count, 8)).astype(np.float32),
        chunks,
        touch,
    )


@dataclass
class Head:
    """Judges a chunk by its speed. sense: 1 sees it, 0 does not, -1 has it the wrong way round."""

    examples: ContactExamples | None = None
    cost_limit: float = 0.3
    cost_m: int = 2
    sense: float = 1.0
    bias: float = 0.0
    constant: float | None = None

    def step_cost(self, observations: list[Observation], actions: np.ndarray) -> np.ndarray:
        if self.constant is not None:
            return np.full(actions.shape[:-1], self.constant)
        speed = np.abs(actions[..., 1]) * 20.0
        speed = speed if self.sense > 0 else 1.0 - speed
        return np.clip(speed + self.bias, 0.0, 1.0)


GOOD = Head(contact_chunks(0))
SEEN = Observation(
    {name: np.zeros((SIDE, SIDE, 3), np.uint8) for name in CAMERAS}, np.ones(8), "lift it"
)


def chunk(speed: float) -> np.ndarray:
    actions = np.zeros((H, 7))
    actions[:, 1] = speed
    return actions


def fresh(**changes: Any) -> Head:
    """A head like the good one with examples of its own, changed."""
    return replace(Head(contact_chunks(1)), **changes)


BAD: dict[str, tuple[Head, str]] = {
    "always 0": (fresh(constant=0.0), "AUROC 0.50, recall 0%"),
    "always 1": (fresh(constant=1.0), "AUROC 0.50, recall 100%, false alarms 100%"),
    "constant": (fresh(constant=0.29), "AUROC 0.50"),
    "NaN": (fresh(constant=float("nan")), "are not probabilities"),
    "the wrong way round": (fresh(sense=-1.0), "AUROC 0.00"),
    "a limit that nothing reaches": (fresh(cost_limit=0.999), "recall 0%"),
    "a limit that everything reaches": (fresh(bias=0.3), "false alarms 100%"),
    "a limit of 1": (fresh(cost_limit=1.0), r"expected within \[1, 64\] and \(0, 1\)"),
    "a limit of 0": (fresh(cost_limit=0.0), r"expected within"),
    "no steps for the cost": (fresh(cost_m=0), "its cost_m is 0"),
    "no examples": (fresh(examples=None), "brings no contact examples"),
}


class RunningGate:
    """A gate that judges by the head of a hot swap, as the safety node does."""

    def __init__(self, folder: Path) -> None:
        self.store = CheckpointStore(folder / "store")
        self.folder, self.heads = folder, dict[str, Head]()
        self.swap: HotSwap[Head] = HotSwap(
            lambda path: self.heads[path.name],
            lambda name: self.store.resolve("safety", name),
            self.try_head,
        )
        self.gate = SafetyGate(GateConfig(cost_m=2, detour_ratio=0.0, freshness=FreshnessConfig()))
        self.sequence = 0
        self.held: list[tuple[Observation, np.ndarray]] = []

    def publish(self, head: Head) -> str:
        source = write_source(self.folder / f"source{len(self.heads)}")
        name = self.store.publish("safety", source, spec=SPEC).id
        self.heads[name] = head
        return name

    def try_head(self, head: Head) -> None:
        current = self.swap.current
        if current is None:
            examine_first(head, head.cost_limit)
        else:
            running = current.model
            examine(head, head.cost_limit, running, running.cost_limit, self.held)

    def judge(self, speed: float) -> float:
        """The cost of a chunk, which the gate holds if it is over the limit."""
        self.swap.take_ready()
        assert self.swap.current is not None
        model = self.swap.current.model
        self.sequence += 1
        now = self.sequence * SECOND // 4
        proposed = ActionChunk(chunk(speed), observed_at=now, sequence=self.sequence)

        def ask(candidates: np.ndarray) -> np.ndarray:
            return model.step_cost([SEEN], candidates)

        result = self.gate.decide((proposed,), ask, model.cost_limit, lambda: now)
        if result.proposed.chunk_cost >= model.cost_limit:
            assert result.decision == Decision.HOLD
            assert result.forwarded is None
            self.held.append((SEEN, proposed.actions))
        return result.proposed.chunk_cost


@pytest.fixture
def running(tmp_path: Path) -> RunningGate:
    running = RunningGate(tmp_path)
    running.publish(GOOD)
    running.swap.start_with("latest")
    return running


@pytest.mark.parametrize("fault", BAD)
def test_a_bad_head_under_a_running_gate_changes_nothing_and_says_why(
    running: RunningGate, fault: str
) -> None:
    head, words = BAD[fault]
    before = [running.judge(speed) for speed in (0.001, 0.04, 0.001, 0.04)]
    assert before == pytest.approx([0.02, 0.8, 0.02, 0.8])
    assert len(running.held) == 2
    name = running.publish(head)
    assert running.swap.request(name).accepted
    assert running.swap.wait(20.0)
    with pytest.raises(CheckpointError, match=words):
        raise CheckpointError(running.swap.reason)
    assert running.swap.status == "failed"
    assert [running.judge(speed) for speed in (0.001, 0.04, 0.001, 0.04)] == before
    assert len(running.held) == 4
    assert running.swap.current is not None
    assert running.swap.current.model is GOOD


def test_a_good_head_is_taken(running: RunningGate) -> None:
    new = fresh(cost_limit=0.35)
    running.swap.request(running.publish(new))
    assert running.swap.wait(20.0)
    running.judge(0.001)
    assert running.swap.current is not None
    assert running.swap.current.model is new


def test_a_head_does_not_choose_its_own_exam() -> None:
    """One that is right by its own examples alone fails by the running head's."""
    turned = contact_chunks(2)
    head = Head(replace(turned, contact=~turned.contact), sense=-1.0)
    examine(head, 0.3, None, 0.5, [])
    with pytest.raises(CheckpointError, match="on the running head's contact examples: AUROC 0.00"):
        examine(head, 0.3, GOOD, 0.3, [])


def test_a_head_that_knows_contacts_worse_than_the_running_one_is_kept_out() -> None:
    theirs, limit = contact_chunks(0), 0.7  # many of the contacts stay under this limit
    head, bars = fresh(cost_limit=limit), ExamBars(recall=0.3)
    assert 0.3 < marks(head, theirs, limit).recall < 0.85
    with pytest.raises(CheckpointError, match="it knows contacts worse than the running head"):
        examine(head, limit, GOOD, 0.3, [], bars)


HELD = [(SEEN, chunk(speed)) for speed in (0.016, 0.017, 0.018, 0.019)]


def test_a_head_that_frees_what_was_just_held_needs_the_examples_behind_it() -> None:
    """Its limit is a little higher: no example says that this is better."""
    higher, better = fresh(cost_limit=0.45), Head(GOOD.examples, cost_limit=0.39)
    assert marks(higher, contact_chunks(0), 0.45).recall < 1.0
    with pytest.raises(CheckpointError, match="4 of the last 4 chunks .* are free for it"):
        examine(higher, 0.45, GOOD, 0.3, HELD)
    examine(higher, 0.45, GOOD, 0.3, HELD[:3])  # too few to say
    examine(better, 0.39, GOOD, 0.3, HELD)  # all contacts of the running head's are held by it
    with pytest.raises(CheckpointError, match="no contact example says"):
        examine(better, 0.39, replace(GOOD, examples=None), 0.3, HELD)


def test_the_first_head_may_come_without_examples_and_that_is_said() -> None:
    assert "brings no contact examples" in examine_first(Head(), 0.3)
    assert examine_first(GOOD, 0.3) == ""
    with pytest.raises(CheckpointError, match="on its own contact examples"):
        examine_first(fresh(constant=0.0), 0.3)
    with pytest.raises(CheckpointError, match="its cost_m is 0"):
        examine_first(Head(cost_m=0), 0.3)


# -------------------------------------------------------------------- the file


def test_examples_come_back_as_they_were_written(tmp_path: Path) -> None:
    examples = contact_chunks()
    write_examples(examples, tmp_path)
    read = read_examples(tmp_path, CAMERAS, SIDE, H)
    assert read is not None
    for name in ("images", "scene", "state", "chunks", "contact"):
        np.testing.assert_array_equal(getattr(read, name), getattr(examples, name))
    assert read_examples(tmp_path / "elsewhere", CAMERAS, SIDE, H) is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"contact": np.zeros(48, bool)}, "some with and some without"),
        ({"contact": np.ones(48, bool)}, "some with and some without"),
        ({"scene": np.full(48, 12, np.int32)}, "each of one of the scenes"),
        ({"scene": np.full(48, -1, np.int32)}, "each of one of the scenes"),
        ({"state": np.full((48, 8), np.nan, np.float32)}, "not finite"),
        ({"chunks": np.full((48, H, 7), np.inf, np.float32)}, "not finite"),
        ({"chunks": np.zeros((48, H, 6), np.float32)}, "chunks are"),
        ({"state": np.zeros((47, 8), np.float32)}, "state are"),
        ({"images": np.zeros((12, 2, 4, 4, 3), np.float32)}, "images are"),
        ({"images": np.zeros((12, 1, 4, 4, 3), np.uint8)}, "images are"),
        ({"cameras": ("agentview",)}, "images are"),
    ],
)
def test_examples_that_do_not_fit_together_are_refused(changes: dict, words: str) -> None:
    with pytest.raises(CheckpointError, match=words):
        replace(contact_chunks(), **changes)


def test_examples_are_few() -> None:
    with pytest.raises(CheckpointError, match="at most 1024"):
        contact_chunks(count=MAX_EXAMPLES + 4)


@pytest.mark.parametrize(("side", "length"), [(SIDE + 1, H), (SIDE, H + 1)])
def test_examples_of_another_head_s_inputs_are_refused(
    tmp_path: Path, side: int, length: int
) -> None:
    write_examples(contact_chunks(), tmp_path)
    with pytest.raises(CheckpointError, match=f"the head's are {side} and {length}"):
        read_examples(tmp_path, CAMERAS, side, length)


def test_an_examples_file_that_is_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / EXAMPLES_FILE).write_bytes(b"no tensors")
    with pytest.raises(CheckpointError, match="not a sound safetensors file"):
        read_examples(tmp_path, CAMERAS, SIDE, H)


# -------------------------------------------------------------------- the head that ships


@pytest.fixture
def shipped() -> SafetyModel:
    return load_safety(find_checkpoint("safety", "shipped"))


def test_what_ships_brings_examples_and_passes_by_them(shipped: SafetyModel) -> None:
    assert shipped.examples is not None
    assert shipped.examples.contact.sum() >= 24
    assert (~shipped.examples.contact).sum() >= 24
    assert examine_first(shipped, shipped.cost_limit) == ""
    examine(shipped, shipped.cost_limit, shipped, shipped.cost_limit, [])
    answers = shipped.costs_of(shipped.examples)
    for number in (0, 9, 40):
        seen, chunk = shipped.examples.observation(number), shipped.examples.chunks[number]
        np.testing.assert_allclose(
            shipped.step_cost([seen], chunk[None])[0], answers[number], atol=1e-5
        )


def answers_0(model: SafetyModel) -> None:
    next(reversed(list(model.head.mlp.parameters()))).fill_(-100.0)


def sees_nothing(model: SafetyModel) -> None:
    for parameter in model.head.context.parameters():
        parameter.zero_()


def is_shuffled(model: SafetyModel) -> None:
    generator = torch.Generator().manual_seed(0)
    for parameter in model.head.parameters():
        flat = parameter.flatten()
        parameter.copy_(flat[torch.randperm(len(flat), generator=generator)].view_as(parameter))


@pytest.mark.parametrize("ruin", [answers_0, sees_nothing, is_shuffled])
@pytest.mark.parametrize("with_own", [True, False])
def test_what_ships_is_refused_with_its_weights_ruined(
    shipped: SafetyModel, ruin: Callable[[SafetyModel], None], with_own: bool
) -> None:
    """By its own examples, and by the running head's where its own are said to suit it."""
    running = load_safety(find_checkpoint("safety", "shipped"))
    with torch.no_grad():
        ruin(shipped)
    if not with_own:
        theirs = running.examples
        assert theirs is not None
        cost = np.sort(shipped.costs_of(theirs), axis=1)[:, -2:].mean(1)
        order = np.argsort(np.argsort(cost)) >= len(cost) // 2
        shipped.examples = replace(theirs, contact=order)
        shipped.cost_limit = float(np.clip(np.median(cost), 0.001, 0.999))
    with pytest.raises(CheckpointError, match=r"tell contacts apart|knows contacts worse"):
        examine(shipped, shipped.cost_limit, running, running.cost_limit, [])


def test_a_head_that_was_trained_brings_examples_of_held_out_episodes(
    tmp_path: Path, shipped: SafetyModel
) -> None:
    frames = {name: np.zeros((30, 64, 64, 3), np.uint8) for name in CAMERAS}
    with EpisodeWriter(tmp_path, 64, CAMERAS) as writer:
        for number in range(4):
            cost = np.zeros(30, np.float32)
            cost[20] = number % 2
            marked = {name: image + np.uint8(number) for name, image in frames.items()}
            writer.add(
                Episode(
                    marked, np.ones((30, 8), np.float32), np.zeros((30, 7), np.float32),
                    cost > 5, cost, np.zeros(30, np.float32), "lift it", "lift", 1, number, "robot",
                )
            )  # fmt: skip
    examples = contact_examples([tmp_path], shipped, [1, 2])
    assert examples is not None
    shown = [int(image[0, 0, 0, 0]) for image in examples.images]
    assert sorted(shown) == [1, 2]
    assert {shown[scene] for scene in examples.scene[examples.contact]} == {1}
    assert len(examples.contact) == 12
    assert contact_examples([tmp_path], shipped, [0, 2]) is None
