"""Imitation: fit the policy to recorded episodes."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from safedojo_ros.core.errors import ConfigError, DatasetError
from safedojo_ros.data.lerobot.reader import EpisodeReader
from safedojo_ros.learning.policy_losses import PolicyBatch, imitation_loss
from safedojo_ros.learning.progress import progress_bar
from safedojo_ros.learning.training_run import TrainingRun, learning_rate_factor
from safedojo_ros.models.images import to_unit
from safedojo_ros.models.instructions import train_tokenizer
from safedojo_ros.models.normalisation import RobotScales
from safedojo_ros.models.pi0_policy import PI0Policy, PI0Size


@dataclass(frozen=True)
class ImitationConfig:
    """How the policy is trained.

    size: of the π0 network; noise_draws: (time, noise) pairs that flow matching draws for each
    observation; only_safe: leave out episodes with a contact or displacement;
    colour_jitter: relative change of brightness and contrast.
    """

    size: PI0Size = field(default_factory=PI0Size)
    steps: int = 9000
    batch_size: int = 64
    noise_draws: int = 4
    only_safe: bool = False
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    warmup_steps: int = 200
    ema_decay: float = 0.998
    colour_jitter: float = 0.1
    gradient_clip: float = 1.0
    save_every: int = 250
    seed: int = 0


@dataclass
class Demonstrations:
    """Frames of all episodes, in memory.

    images: (N, cameras, H, W, 3) uint8; state: (N, 8) and actions: (N, 7) physical; sentence: (N,)
    index into instructions; ends: (N,) index after the last frame that is imitated, that of the
    first success where there is one (what lingers after it is for the success classifier); taught:
    (M,) the frames that are imitated.
    """

    images: torch.Tensor
    state: torch.Tensor
    actions: torch.Tensor
    sentence: torch.Tensor
    ends: torch.Tensor
    taught: torch.Tensor
    instructions: list[str]
    cameras: tuple[str, ...]

    @staticmethod
    def read(directories: Sequence[Path], only_safe: bool = False) -> "Demonstrations":
        """Read data sets; the label is the expert's clean action where it was recorded.

        only_safe: imitate no episode that has a contact or displacement.
        """
        parts = [EpisodeReader(directory).load_arrays() for directory in directories]
        rows = [row for arrays in parts for row in arrays.rows]
        if not rows:
            raise DatasetError(f"no frames in {[str(d) for d in directories]}; collect episodes")
        lengths = np.concatenate([np.diff(arrays.starts) for arrays in parts])
        labels = [arrays.extra.get("clean_action", arrays.actions) for arrays in parts]
        instructions = sorted({row.instruction for row in rows})
        sentence = np.repeat([instructions.index(row.instruction) for row in rows], lengths)
        success = np.concatenate([arrays.success for arrays in parts])
        ends = np.repeat(imitated_ends(success, np.cumsum(lengths)), lengths)
        safe = np.array([not row.touched for row in rows])
        if only_safe and not safe.any():
            raise DatasetError(
                f"no episode in {[str(d) for d in directories]} is without contact; collect some "
                "with --style safe, or leave only_safe out"
            )
        imitated = np.repeat(safe | (not only_safe), lengths) & (np.arange(len(ends)) < ends)
        return Demonstrations(
            torch.cat([torch.from_numpy(arrays.images) for arrays in parts]),
            torch.from_numpy(np.concatenate([a.state for a in parts]).astype(np.float32)),
            torch.from_numpy(np.concatenate(labels).astype(np.float32)),
            torch.from_numpy(sentence.astype(np.int64)),
            torch.from_numpy(ends),
            torch.from_numpy(np.flatnonzero(imitated)),
            instructions,
            tuple(parts[0].cameras),
        )

    def chunk_rows(self, frames: torch.Tensor, length: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows (B, H) of the steps from each frame on, and which of them exist (B, H)."""
        rows = frames[:, None] + torch.arange(length)
        exists = rows < self.ends[frames][:, None]
        return torch.minimum(rows, self.ends[frames][:, None] - 1), exists


def imitated_ends(success: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """(E,) row after the step that brings each episode's first success, or after its last step.

    success: (N,) bool, after each step; ends: (E,) row after each episode's last step.
    """
    first = np.append(np.flatnonzero(success), len(success))
    starts = np.append(0, ends[:-1])
    return np.minimum(first[np.searchsorted(first, starts)] + 1, ends).astype(np.int64)


class Imitation:
    """A policy that learns from demonstrations; `update` is one gradient step."""

    def __init__(
        self,
        config: ImitationConfig,
        data: Demonstrations,
        device: str = "cpu",
        start: PI0Policy | None = None,
    ) -> None:
        """start: a policy whose weights, tokenizer and normalisation are gone on from."""
        torch.manual_seed(config.seed)
        self.config, self.data = config, data
        if start is not None:
            check_start(start, config.size, data)
        self.policy = (start or new_policy(config.size, data)).to(device)
        self.network = self.policy.network
        self.average = torch.optim.swa_utils.AveragedModel(
            self.network, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(config.ema_decay)
        )
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), config.learning_rate, weight_decay=config.weight_decay
        )
        self.models = torch.nn.ModuleList([self.network, self.average])
        """Weights and their moving average, saved and resumed together."""

    def update(self, step: int) -> dict[str, float]:
        """One gradient step on a batch drawn from the seed and `step`."""
        config, data, policy = self.config, self.data, self.policy
        generator = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
        drawn = torch.randint(len(data.taught), (config.batch_size,), generator=generator)
        frames = data.taught[drawn]
        batch = demonstrated_batch(policy, data, frames, config.colour_jitter, generator)
        self.network.train()
        rate = learning_rate_factor(step, config.warmup_steps, config.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = config.learning_rate * rate
        loss = imitation_loss(policy, batch, config.noise_draws, generator)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), config.gradient_clip)
        self.optimizer.step()
        self.average.update_parameters(self.network)
        return {
            "loss": loss.item(),
            "gradient_norm": float(norm),
            "learning_rate": config.learning_rate * rate,
        }

    def averaged_policy(self) -> PI0Policy:
        """The policy with the moving average of the weights: what is saved and evaluated."""
        return self.policy.copied(self.average.module.state_dict(), self.config.size)


def demonstrated_batch(
    policy: PI0Policy,
    data: Demonstrations,
    frames: torch.Tensor,
    colour_jitter: float,
    generator: torch.Generator,
) -> PolicyBatch:
    """What follows the moments `frames` (B,), as `policy` reads it, on its device."""
    rows, exists = data.chunk_rows(frames, policy.chunk_length)
    device = policy.device
    pictures = to_unit(data.images[frames].to(device))
    tokens = policy.tokenise([data.instructions[i] for i in data.sentence[frames].tolist()])
    return PolicyBatch(
        jitter(pictures, colour_jitter, generator),
        tokens.to(device),
        policy.scales.state.normalise(data.state[frames]).to(device),
        policy.scales.action.normalise(data.actions[rows]).to(device),
        exists.to(device),
    )


def check_start(start: PI0Policy, size: PI0Size, data: Demonstrations) -> None:
    """Raise `ConfigError` unless training may go on from `start` with this size and data."""
    if size.trained() != start.size.trained():
        raise ConfigError(
            f"policy {start.checkpoint_id} is of {start.size}, the preset of {size}; choose the "
            "preset that it was trained with"
        )
    strange = sorted(set(data.instructions) - set(start.instructions))
    if strange or data.cameras != start.cameras:
        raise ConfigError(
            f"policy {start.checkpoint_id} knows {start.cameras} and {list(start.instructions)}; "
            f"the data has {data.cameras} and the new sentences {strange}"
        )


def new_policy(size: PI0Size, data: Demonstrations) -> PI0Policy:
    """A fresh policy with the data's instructions, cameras and normalisation."""
    state, actions = data.state.numpy(), data.actions.numpy()
    words, sentences = train_tokenizer(data.instructions), data.instructions
    return PI0Policy(size, words, RobotScales.from_data(state, actions), sentences, data.cameras)


def jitter(pictures: torch.Tensor, amount: float, generator: torch.Generator) -> torch.Tensor:
    """Change brightness and contrast of each observation, all cameras alike."""
    shape = (len(pictures), 1, 1, 1, 1)
    contrast = 1 + amount * (2 * torch.rand(shape, generator=generator) - 1)
    brightness = amount * (2 * torch.rand(shape, generator=generator) - 1)
    return (pictures * contrast.to(pictures) + brightness.to(pictures)).clamp(-1, 1)


def train_policy(
    config: ImitationConfig,
    data: Demonstrations,
    directory: Path,
    resume: bool = False,
    device: str = "cpu",
    start: PI0Policy | None = None,
) -> PI0Policy:
    """Train in `directory` and leave the averaged policy in `directory`/checkpoint.

    start: a policy to go on from, instead of random weights.
    """
    run = TrainingRun(directory, resume)
    trainer = Imitation(config, data, device, start)
    first = run.restore(trainer.models, trainer.optimizer)
    smooth = None
    with progress_bar("policy", first, config.steps) as show:
        for step in range(first, config.steps):
            metrics = trainer.update(step)
            smooth = metrics["loss"] if smooth is None else 0.98 * smooth + 0.02 * metrics["loss"]
            show(step + 1, f"loss {smooth:.4f}")
            if (step + 1) % 20 == 0:
                run.record(step + 1, metrics | {"smooth_loss": smooth})
            if (step + 1) % config.save_every == 0 or step + 1 == config.steps:
                run.save(step + 1, trainer.models, trainer.optimizer)
                write_checkpoint(trainer.averaged_policy(), directory / "checkpoint")
    run.close()
    return trainer.averaged_policy()


def write_checkpoint(policy: PI0Policy, directory: Path) -> None:
    """Save into `directory`, made when it is missing."""
    directory.mkdir(parents=True, exist_ok=True)
    policy.save(directory)
