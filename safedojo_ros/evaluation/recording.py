"""Records episodes, every step of them: of scripted experts and of policies."""

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from safedojo_ros.core.bounds import ACTION_BOUND
from safedojo_ros.core.types import Episode, Observation
from safedojo_ros.evaluation.noise import NoiseBursts
from safedojo_ros.evaluation.play import act_alike, play
from safedojo_ros.worlds.world import Redrawable, Scene, Style, World

if TYPE_CHECKING:
    import torch

    from safedojo_ros.models.policy import Policy
    from safedojo_ros.worlds.vector import VectorWorld

BOUND = ACTION_BOUND.astype(np.float32)


class EpisodeSteps:
    """Collects the steps of one episode."""

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
        """Add one control step: its observation, its action and the outcome."""
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
    scene: Scene,
    noise: float = 0.0,
    linger: int = 0,
    wants: Callable[[Episode], bool] = lambda episode: True,
) -> Episode:
    """One episode of the scripted expert, until success or the world's step limit.

    linger: steps after success; noise: sigma of `NoiseBursts`, metres a step. `Episode.actions` are
    the executed ones; `extra["clean_action"]` is the expert's own in the same state. Images are
    kept where the world renders them, and the episode is one that `wants` is true of: where the
    world can, they are drawn at the end.
    """
    options = {"task": scene.task, "level": scene.level}
    later = world.render_images and isinstance(world, Redrawable)
    views: list[np.ndarray] | None = [] if later else None
    world.render_images &= not later
    try:
        world.reset(seed=scene.seed, options=options)
        source = f"expert:{style}"
        episode = record_rest(world, style, scene.seed, noise, source, linger, views)
    finally:
        world.render_images |= later
    if views is None or not wants(episode):
        return episode
    assert isinstance(world, Redrawable)
    drawn = [world.images_of(view) for view in views]
    images = {name: np.stack([one[name] for one in drawn]) for name in drawn[0]}
    return replace(episode, images=images)


def record_rest(
    world: World,
    style: Style,
    seed: int,
    noise: float,
    source: str,
    linger: int = 0,
    views: list[np.ndarray] | None = None,
) -> Episode:
    """The expert's steps from the world's present state to the end of the episode.

    views: takes the `Redrawable.view` before each step.
    """
    expert, bursts = world.expert(style), NoiseBursts(noise, seed)
    limit = BOUND[:3]
    steps = EpisodeSteps()
    observation = world.observation()
    succeeded, left, truncated = False, linger, False
    while not truncated and left >= 0:
        clean = np.asarray(expert.act(), dtype=np.float32)
        clean[:3] = np.clip(clean[:3], -limit, limit)
        action = bursts.disturb(clean)
        if views is not None:
            assert isinstance(world, Redrawable)
            views.append(world.view())
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
    scenes: list[Scene],
    noise: float = 0.0,
    execute: int | None = None,
) -> list[Episode]:
    """One episode of `policy` in each scene, executed together.

    execute: actions of a chunk between two inferences (default: all); noise: sigma of
    `NoiseBursts`, metres a step. `extra["clean_action"]` is the policy's own action. The policy's
    noise comes from a generator of each episode's own, seeded with its seed.
    """
    seeds = [scene.seed for scene in scenes]
    observations = vector.reset(scenes)
    recorded = [EpisodeSteps() for _ in scenes]

    def act(seen: list[Observation], generators: "list[torch.Generator]") -> np.ndarray:
        chunks = act_alike(policy, seen, generators).astype(np.float32)
        return np.clip(chunks, -BOUND, BOUND)

    bursts = [NoiseBursts(noise, seed) for seed in seeds]
    for step in play(
        policy, vector, observations, seeds, execute, each_action=True, act=act, noise=bursts
    ):
        for i in step.running:
            recorded[i].add(
                step.observations[i].images,
                step.observations[i].state,
                step.executed[i, 0],
                bool(step.outcome.success[i, 0]),
                float(step.outcome.cost[i, 0]),
                float(step.outcome.displacement[i, 0]),
                clean_action=step.proposed[i, 0],
            )
    source = f"policy:{policy.checkpoint_id}"
    return [
        steps.episode(seen.instruction, scene.task, scene.level, scene.seed, source)
        for steps, seen, scene in zip(recorded, observations, scenes, strict=True)
    ]
