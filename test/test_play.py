"""The loop that executes a policy: what attaches to it changes nothing but what it says it does."""

from typing import Any

import numpy as np
import torch

from safedojo_ros.core.types import Observation
from safedojo_ros.evaluation.noise import NoiseBursts
from safedojo_ros.evaluation.play import ROWS, Step, act_alike, play, propose_alike
from safedojo_ros.evaluation.protocol import evaluate, summarise
from safedojo_ros.evaluation.recording import record_policy
from safedojo_ros.evaluation.takeover import record_takeover
from safedojo_ros.models.instructions import train_tokenizer
from safedojo_ros.models.normalisation import unit_scales
from safedojo_ros.models.pi0_network import PI0Size
from safedojo_ros.models.pi0_policy import PI0Policy
from safedojo_ros.worlds.vector import ChunkOutcome, VectorWorld
from safedojo_ros.worlds.world import Scene

CHUNK = 4
SCENES = [Scene(11, "cube_on_plate", 2), Scene(12, "bowl_to_mark", 1), Scene(13, "stack_blocks", 0)]


class Wanderer:
    """A policy that moves at random; it remembers what it was shown."""

    checkpoint_id = "wanderer"
    chunk_length = CHUNK
    cameras: tuple[str, ...] = ("agentview", "wrist")
    image_size = 32

    def __init__(self) -> None:
        self.seen: list[list[Observation]] = []

    def act(
        self, observations: list[Observation], generators: list[torch.Generator] | None = None
    ) -> np.ndarray:
        assert generators is not None
        self.seen.append(observations)
        return np.stack([0.03 * torch.randn(CHUNK, 7, generator=g).numpy() for g in generators])


class CountingWorld:
    """Each observation tells how many actions were executed before it; ends after 10 of them."""

    def __init__(self, count: int) -> None:
        self.steps, self.chunks = np.zeros(count, dtype=int), list[np.ndarray]()

    def observations(self) -> list[Observation]:
        return [Observation({}, np.full(8, float(n)), "go") for n in self.steps]

    def step(self, chunks: np.ndarray, steps: int) -> ChunkOutcome:
        self.chunks.append(chunks)
        self.steps += steps
        nothing, done = np.zeros(chunks.shape[:2]), self.steps >= 10
        return ChunkOutcome(self.observations(), nothing, nothing, nothing, nothing > 0, done)


def counted(policy: Any, execute: int | None = None, **attached: Any) -> list[Step]:
    world = CountingWorld(3)
    return list(play(policy, world, world.observations(), [1, 2, 3], execute, **attached))


def test_the_policy_is_asked_where_its_chunks_end_however_often_it_is_watched() -> None:
    for each_action, steps in ((False, 4), (True, 10)):
        policy = Wanderer()
        assert len(counted(policy, 3, each_action=each_action)) == steps
        asked_at = [[int(o.state[0]) for o in seen] for seen in policy.seen]
        assert asked_at == [[n] * ROWS for n in (0, 3, 6, 9)]


def test_every_action_is_executed_once_and_in_order() -> None:
    whole = np.concatenate([step.executed for step in counted(Wanderer())], axis=1)
    single = [step.executed[:, :1] for step in counted(Wanderer(), each_action=True)]
    np.testing.assert_array_equal(np.concatenate(single, axis=1), whole[:, :10])
    assert len(np.unique(whole)) == whole.size


def test_an_episode_that_the_watcher_ends_is_neither_asked_nor_moved() -> None:
    policy, world, taking_part = Wanderer(), CountingWorld(3), []
    for step in play(policy, world, world.observations(), [1, 2, 3]):
        taking_part.append(step.running)
        step.over[1] = True
    assert taking_part == [[0, 1, 2], [0, 2], [0, 2]]
    assert [len({id(o) for o in seen}) for seen in policy.seen] == [3, 2, 2]
    assert not world.chunks[1][1].any()


def test_noise_is_executed_and_what_was_proposed_is_kept() -> None:
    bursts = [NoiseBursts(0.02, seed) for seed in (1, 2, 3)]
    steps = counted(Wanderer(), each_action=True, noise=bursts)
    plain = counted(Wanderer(), each_action=True)
    expected = [NoiseBursts(0.02, seed) for seed in (1, 2, 3)]
    pushed = 0
    for step, other in zip(steps, plain, strict=True):
        np.testing.assert_array_equal(step.proposed, other.proposed)
        for i in range(3):
            wanted = expected[i].disturb(step.proposed[i, 0])
            np.testing.assert_array_equal(step.executed[i, 0], wanted)
            pushed += bool((wanted[:3] != np.float32(step.proposed[i, 0, :3])).any())
    assert pushed > 0


def test_an_episode_that_is_recorded_is_the_one_that_is_judged() -> None:
    vector = VectorWorld(32, max_steps=10)
    policy: Any = Wanderer()
    for execute in (None, 3):
        judged = evaluate(policy, SCENES, vector, execute=execute).results
        episodes = record_policy(policy, vector, SCENES, execute=execute)
        recorded = [
            summarise(scene, episode.success, episode.cost, episode.displacement)
            for scene, episode in zip(SCENES, episodes, strict=True)
        ]
        assert [(r.steps, r.success, r.contact_steps) for r in recorded] == [
            (r.steps, r.success, r.contact_steps) for r in judged
        ]
        np.testing.assert_allclose(
            [r.displacement for r in recorded], [r.displacement for r in judged], rtol=1e-6
        )
        assert [e.images["wrist"].shape for e in episodes] == [(10, 32, 32, 3)] * 3


def test_a_world_that_was_left_stays_as_it_is() -> None:
    vector = VectorWorld(32, max_steps=20)
    vector.reset(SCENES[:2])
    vector.leave(np.array([True, False]))
    before = vector.worlds[0].state()
    outcome = vector.step(np.full((2, CHUNK, 7), 0.02), 3)
    np.testing.assert_array_equal(vector.worlds[0].state(), before)
    assert outcome.valid.tolist() == [[False] * 3, [True] * 3]


def test_where_the_policy_used_up_the_time_no_expert_takes_over() -> None:
    policy: Any = Wanderer()
    vector = VectorWorld(32, max_steps=CHUNK)  # one chunk, and the policy has one at least
    assert record_takeover(policy, vector, SCENES, ["safe"] * 3) == []


def test_a_chunk_is_the_same_to_the_last_bit_beside_any_number_of_others() -> None:
    torch.manual_seed(0)
    size = PI0Size(layers=2, denoising_steps=2)
    policy = PI0Policy(size, train_tokenizer(["go"]), unit_scales(), ["go"])
    draw = np.random.default_rng(0)
    seen = [
        Observation(
            {c: draw.integers(0, 255, (64, 64, 3), np.uint8) for c in policy.cameras},
            draw.normal(0, 0.1, 8),
            "go",
        )
        for _ in range(ROWS + 4)
    ]

    def generators(count: int) -> list[torch.Generator]:
        return [torch.Generator().manual_seed(seed) for seed in range(count)]

    acted = act_alike(policy, seen, generators(len(seen)))
    proposed = propose_alike(policy, seen, generators(len(seen)), 2)
    for count in (1, 2, 3, 7, ROWS, ROWS + 1):
        some = seen[:count]
        np.testing.assert_array_equal(act_alike(policy, some, generators(count)), acted[:count])
        again = propose_alike(policy, some, generators(count), 2)
        np.testing.assert_array_equal(again, proposed[:count])
