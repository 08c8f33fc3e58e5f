"""Refinement of world model, success classifier and safety head on fresh rollouts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from shutil import rmtree

import numpy as np

from safedojo_ros.core.errors import ConfigError
from safedojo_ros.data.lerobot.reader import EpisodeReader
from safedojo_ros.learning.data.imagined_contacts import (
    calibrate_threshold,
    imagined_contact_frames,
)
from safedojo_ros.learning.rl.coevolution import Refinement
from safedojo_ros.learning.rl.imagined_world import ImaginedWorld
from safedojo_ros.learning.safety_head import SafetyConfig, contact_frames, train_safety_head
from safedojo_ros.learning.success import (
    SuccessConfig,
    SuccessFrames,
    imagined_frames,
    recorded_frames,
    train_success,
)
from safedojo_ros.learning.world_model import (
    LatentEpisodes,
    WorldModelConfig,
    WorldModelTraining,
)
from safedojo_ros.models.policy import StoredPolicy
from safedojo_ros.models.safety_head import SafetyModel
from safedojo_ros.models.success_classifier import SuccessModel
from safedojo_ros.models.world_model import WorldModel

EPISODES = "episodes"
REFINING_RATE = 0.2
"""Share of a training's learning rate that a refinement takes."""
REPLAYS = 128
"""Most futures that a refinement imagines for the success classifier."""


@dataclass(frozen=True)
class RefinerConfig:
    """How the three models are trained; the steps are those of one refinement.

    violation_threshold: see `rl.constrained_grpo.UpdateConfig`; 0 for the safety head's own.
    """

    world_model: WorldModelConfig
    success: SuccessConfig
    safety: SafetyConfig
    violation_threshold: float = 0.0

    def gentle(self, updates: int) -> "RefinerConfig":
        """A few `updates` of models that are trained already, with small steps."""
        parts = (self.world_model, self.success, self.safety)
        rates = [REFINING_RATE * part.learning_rate for part in parts]
        return RefinerConfig(
            replace(self.world_model, steps=updates, learning_rate=rates[0]),
            replace(
                self.success,
                steps=updates,
                learning_rate=rates[1],
                replays=min(self.success.replays, REPLAYS),
            ),
            replace(
                self.safety,
                steps=updates,
                learning_rate=rates[2],
                replays=min(self.safety.replays, REPLAYS),
            ),
            self.violation_threshold,
        )


class RecordedRefiner:
    """Refines the models of an imagined world, in DIRECTORY/<update>.

    data: the data sets that the models come from, which are kept in mind; record: plays a policy
    at an update into a new data set.
    """

    def __init__(
        self,
        world: ImaginedWorld,
        data: Sequence[Path],
        record: Callable[[StoredPolicy, int, Path], None],
        directory: Path,
        config: RefinerConfig,
    ) -> None:
        self.world, self.data, self.record, self.directory = world, list(data), record, directory
        size = world.world_model.size
        self.config = replace(config, world_model=replace(config.world_model, size=size))

    def refine(self, policy: StoredPolicy, update: int) -> Refinement:
        """Fresh rollouts, then world model, success classifier and safety head on all that is."""
        target, world = self.directory / str(update), self.world
        device = str(world.device)
        if target.exists():
            rmtree(target)  # what a killed run has left
        self.record(policy, update, target / EPISODES)
        made = sorted(self.directory.glob(f"*/{EPISODES}"), key=lambda path: int(path.parent.name))
        sets = [*self.data, *made]
        episodes = LatentEpisodes.read(sets, world.world_model, device)
        trainer = WorldModelTraining(self.config.world_model, world.world_model, episodes, device)
        for step in range(self.config.world_model.steps):
            trainer.update(step)
        world.world_model.parts.eval()
        known, success = world.success.instructions, self.config.success
        frames = numbered_by(known, recorded_frames(sets))
        dreams = imagined_frames(success, world.world_model, episodes, known)
        matched = world.success.imagined_threshold  # by what a policy's rate has set it, if at all
        run = target / "success_run"
        train_success(success, world.success, frames, dreams, run, device=device)
        world.success.imagined_threshold = matched
        contacts = contact_frames(sets, world.safety, device)
        safety = self.config.safety
        touches = imagined_contact_frames(safety, world.safety, world.world_model, episodes)
        run = target / "safety_run"
        train_safety_head(safety, world.safety, contacts, run, device=device, imagined=touches)
        calibrate_threshold(safety, world.safety, world.world_model, episodes)
        for name, model in self._models().items():
            (target / name).mkdir()
            model.save(target / name)
        rows = EpisodeReader(target / EPISODES).rows
        collisions = sum(row.touched for row in rows)
        threshold = self.config.violation_threshold or world.safety.contact_threshold
        return Refinement(len(rows), collisions, threshold)

    def restore(self, update: int) -> None:
        """Put the models that a refinement has saved into the world."""
        target = self.directory / str(update)
        world = self.world
        world.world_model = WorldModel.load(target / "world_model")
        world.success = SuccessModel.load(target / "success")
        world.safety = SafetyModel.load(target / "safety")
        for network in (world.world_model.parts, world.success.network, world.safety.network):
            network.to(world.device)

    def _models(self) -> dict[str, WorldModel | SuccessModel | SafetyModel]:
        world = self.world
        return {"world_model": world.world_model, "success": world.success, "safety": world.safety}


def numbered_by(instructions: tuple[str, ...], frames: SuccessFrames) -> SuccessFrames:
    """`frames` with the numbers that a classifier gives to its `instructions`.

    Raises `ConfigError` where they speak of another task.
    """
    unknown = sorted(set(frames.instructions) - set(instructions))
    if unknown:
        raise ConfigError(f"the success classifier was not trained on {unknown}; train it on that")
    numbers = np.array([instructions.index(sentence) for sentence in frames.instructions])
    return replace(
        frames, instruction=numbers[frames.instruction], instructions=tuple(instructions)
    )
