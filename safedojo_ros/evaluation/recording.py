"""Plays episodes and keeps every step: scripted experts and policies, with exploration noise."""

from typing import TYPE_CHECKING, Any

import numpy as np

from safedojo_ros.core.bounds import ACTION_BOUND, MAX_DELTA_POSITION
from safedojo_ros.core.types import ACTION_SIZE, Episode, Observation
from safedojo_ros.worlds.tabletop.experts import Style
from safedojo_ros.worlds.vector import observe
from safedojo_ros.worlds.world import World, expert_for

if TYPE_CHECKING:
    import torch

    from safedojo_ros.models.policy import Policy
    from safedojo_ros.worlds.vector import VectorWorld

NOISY_SHARE = 0.5
"""Share of the episodes in which exploration noise is added, where it is asked for."""

BURST_CHANCE = 0.06
"""Chance that a burst of noise begins in a step of a noisy episode."""

BURST_STEPS = (3, 8)
"""Shortest and longest burst, control steps."""

NOISE_STREAM, TAKEOVER_STREAM = 0xDA27, 0xDA66

TAKEOVER_STEPS = 80
"""Most control steps that a policy plays before the expert takes over."""


class NoiseBursts:
    """Translation noise in bursts, in the manner of DART: it drives the arm off the expert's way,
    the labels show how to come back.

    sigma: metres a step. A burst pushes in one direction drawn from N(0, sigma^2), with
    N(0, (sigma / 2)^2) more in each step. Drawn from the episode's seed alone.
    """

    def __init__(self, sigma: float, seed: int) -> None:
        self._rng = np.random.default_rng([NOISE_STREAM, seed])
        self._sigma = sigma if self._rng.random() < NOISY_SHARE else 0.0
        self._left = 0
        self._push = np.zeros(3)

    def draw(self) -> np.ndarray:
        """(3,) m, the noise of this step; zeros between bursts."""
        if self._sigma == 0.0:
            return np.zeros(3)
        if self._left == 0 and self._rng.random() < BURST_CHANCE:
            self._left = int(self._rng.integers(BURST_STEPS[0], BURST_STEPS[1] + 1))
            self._push = self._rng.normal(0.0, self._sigma, 3)
        if self._left == 0:
            return np.zeros(3)
        self._left -= 1
        return self._push + self._rng.normal(0.0, self._sigma / 2, 3)

    def disturb(self, action: np.ndarray) -> np.ndarray:
        """`action` (7,) with this step's noise, within the limit of one control step."""
        noisy = np.array(action, dtype=np.float32)
        noisy[:3] = np.clip(noisy[:3] + self.draw(), -MAX_DELTA_POSITION, MAX_DELTA_POSITION)
        return noisy


class EpisodeSteps:
    """Gathers the steps of one episode until it is whole."""

    def __init__(self) -> None:
        self._steps: list[dict[str, Any]] = []

    def add(
        self,
        images: dict[str, np.ndarray],
        state: np.ndarray,
        action: np.ndarray,
        success: bool,
        cost: float,
        displacement: float,
        **extra: np.ndarray,
    ) -> None:
        """One control step: what was seen, what was done, what came of it."""
        self._steps.append(
            {
                "images": images,
                "state": state,
                "action": action,
                "success": success,
                "cost": cost,
                "displacement": displacement,
                "extra": extra,
            }
        )

    def episode(self, instruction: str, task: str, level: int, seed: int, source: str) -> Episode:
        """The whole episode, float32."""
        steps = self._steps
        return Episode(
            images={
                name: np.stack([s["images"][name] for s in steps]) for name in steps[0]["images"]
            },
            state=np.stack([s["state"] for s in steps]).astype(np.float32),
            actions=np.stack([s["action"] for s in steps]).astype(np.float32),
            success=np.array([s["success"] for s in steps], dtype=bool),
            cost=np.array([s["cost"] for s in steps], dtype=np.float32),
            displacement=np.array([s["displacement"] for s in steps], dtype=np.float32),
            instruction=instruction,
            task=task,
            level=level,
            seed=seed,
            source=source,
            extra={
                name: np.stack([s["extra"][name] for s in steps]).astype(np.float32)
                for name in steps[0]["extra"]
            },
        )


def record_expert(
    world: World,
    style: Style,
    task: str,
    level: int,
    seed: int,
    noise: float = 0.0,
    linger: int = 0,
) -> Episode:
    """One episode of the scripted expert, until success or the world's step limit.

    linger: steps that go on after success; noise: sigma of `NoiseBursts`, metres a step.
    `Episode.actions` are those executed;
    `extra["clean_action"]` is what the expert wanted in the same state. Pictures are kept where
    the world renders them.
    """
    world.reset(seed=seed, options={"task": task, "level": level})
    return _record_rest(world, style, seed, noise, f"expert:{style}", linger)


def record_takeover(
    policy: "Policy",
    vector: "VectorWorld",
    seeds: list[int],
    tasks: list[str],
    levels: list[int],
    styles: list[Style],
    noise: float = 0.0,
    execute: int | None = None,
) -> list[Episode]:
    """The expert's way out of where `policy` leads: DAgger by taking over (Kelly et al. 2019).

    The policy plays some chunks, at least one, of `TAKEOVER_STEPS` steps at most; then the expert
    finishes. Only the expert's steps are kept, so that each chunk of labels is one plan and not a
    row of corrections; where the policy succeeded before, there is no episode. A policy behind a
    filter leads to where that filter leads it.
    """
    import torch

    horizon = min(execute or policy.chunk_length, policy.chunk_length)
    observations = vector.reset(seeds, tasks, levels)
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    streams = [np.random.default_rng([TAKEOVER_STREAM, seed]) for seed in seeds]
    most = max(1, TAKEOVER_STEPS // horizon)
    left = np.array([int(stream.integers(1, most + 1)) for stream in streams])
    finished = np.zeros(len(seeds), dtype=bool)
    while playing := np.flatnonzero((left > 0) & ~finished).tolist():
        chunks = np.zeros((len(seeds), horizon, ACTION_SIZE))
        chunks[playing] = act_alike(policy, observations, generators, playing)[:, :horizon]
        for i in playing:
            for action in chunks[i]:
                finished[i] |= vector.worlds[i].step(action)[2]
            observations[i] = observe(vector.worlds[i])
        left[playing] -= 1
    episodes = []
    for i in np.flatnonzero(~finished).tolist():
        world = vector.worlds[i]
        world.render_images = True
        source = f"takeover:{policy.checkpoint_id}:{styles[i]}"
        episodes.append(_record_rest(world, styles[i], seeds[i], noise, source))
        world.render_images = False
    return episodes


def _record_rest(
    world: World, style: Style, seed: int, noise: float, source: str, linger: int = 0
) -> Episode:
    """Play the expert from the world's present state to the end."""
    expert, bursts = expert_for(world, style), NoiseBursts(noise, seed)
    limit = np.float32(MAX_DELTA_POSITION)
    steps = EpisodeSteps()
    observation = world.observation()
    succeeded, left, truncated = False, linger, False
    while not truncated and left >= 0:
        clean = np.asarray(expert.act(), dtype=np.float32)
        clean[:3] = np.clip(clean[:3], -limit, limit)
        action = bursts.disturb(clean)
        state = observation.pop("state")
        images = observation
        observation, _, success, truncated, info = world.step(action)
        steps.add(
            images,
            state,
            action,
            bool(info["success"]),
            float(info["cost"]),
            float(info["displacement"]),
            clean_action=clean,
        )
        succeeded |= success
        left -= succeeded
    return steps.episode(world.instruction, world.task_name, world.level, seed, source)


def record_policy(
    policy: "Policy",
    vector: "VectorWorld",
    seeds: list[int],
    tasks: list[str],
    levels: list[int],
    noise: float = 0.0,
    execute: int | None = None,
) -> list[Episode]:
    """One episode of `policy` for each (seed, task, level), side by side.

    execute: actions of a chunk between two inferences (default: all); noise: sigma of
    `NoiseBursts`, metres a step. `extra["clean_action"]` is the policy's own action. The policy's
    noise comes from a generator of each episode's own, seeded with its seed.
    """
    import torch

    horizon = min(execute or policy.chunk_length, policy.chunk_length)
    observations = vector.reset(seeds, tasks, levels)
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    bursts = [NoiseBursts(noise, seed) for seed in seeds]
    recorded = [EpisodeSteps() for _ in seeds]
    instructions = [o.instruction for o in observations]
    limit = ACTION_BOUND.astype(np.float32)
    running = list(range(len(seeds)))
    while running:
        clean = np.zeros((len(seeds), horizon, ACTION_SIZE), np.float32)
        acted = act_alike(policy, observations, generators, running)[:, :horizon]
        clean[running] = np.clip(acted.astype(np.float32), -limit, limit)
        for h in range(horizon):
            actions = clean[:, h].copy()
            for i in running:
                actions[i] = bursts[i].disturb(clean[i, h])
            outcome = vector.step(actions[:, None])
            for i in running:
                recorded[i].add(
                    observations[i].images,
                    observations[i].state,
                    actions[i],
                    bool(outcome.success[i, 0]),
                    float(outcome.cost[i, 0]),
                    float(outcome.displacement[i, 0]),
                    clean_action=clean[i, h],
                )
            observations = outcome.observations
            running = [i for i in running if not outcome.done[i]]
    source = f"policy:{policy.checkpoint_id}"
    return [
        steps.episode(instruction, task, level, seed, source)
        for steps, instruction, task, level, seed in zip(
            recorded, instructions, tasks, levels, seeds, strict=True
        )
    ]


def act_alike(
    policy: "Policy",
    observations: list[Observation],
    generators: "list[torch.Generator]",
    running: list[int],
) -> np.ndarray:
    """(R, H, 7) chunks for the worlds `running`, the same for each whatever runs beside it.

    The last world that runs is given a neighbour: products with a single row are summed in another
    order, and an episode would end otherwise alone than in company.
    """
    import torch

    seen, noise = [observations[i] for i in running], [generators[i] for i in running]
    if len(running) == 1:
        seen, noise = seen * 2, [*noise, torch.Generator().manual_seed(0)]
    return np.asarray(policy.act(seen, noise))[: len(running)]
