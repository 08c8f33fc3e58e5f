"""Imitation: fit the policy to recorded episodes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from safedojo_ros.core.config import check_ranges
from safedojo_ros.core.errors import ConfigError
from safedojo_ros.learning.data.demonstrations import Demonstrations
from safedojo_ros.learning.fit import FitConfig, fit
from safedojo_ros.learning.policy_losses import PolicyBatch, imitation_loss
from safedojo_ros.learning.products import fast_products
from safedojo_ros.learning.training_run import TrainingRun
from safedojo_ros.models.images import check_side, to_unit
from safedojo_ros.models.instructions import train_tokenizer
from safedojo_ros.models.normalisation import RobotScales
from safedojo_ros.models.pi0_network import PI0Size
from safedojo_ros.models.pi0_policy import PI0Policy
from safedojo_ros.models.places import Places


@dataclass(frozen=True)
class ImitationConfig(FitConfig):
    """How the policy imitates demonstrations. Used by `safedojo train policy`."""

    size: PI0Size = field(default_factory=PI0Size)
    """Size of the π0 network."""
    steps: int = 9000
    """Gradient steps, 0 or more."""
    weight_decay: float = 1e-4
    """AdamW's weight decay, 0 or more."""
    warmup_steps: int = 200
    """Steps over which the learning rate rises, 0 or more; then it falls to 0 by half a cosine."""
    noise_draws: int = 4
    """Pairs (time, noise) of flow matching that are drawn for each frame, at least 1."""
    longest_delay: int = 3
    """Most steps that a chunk comes late in training, 0 or more, less than the chunk has."""
    aside: float = 0.006
    """How far aside the committed steps of a late chunk lead in training, metres, 0 or more."""
    place_weight: float = 0.1
    """Weight of the loss on where gripper and next grasp are, with size.places, 0 or more."""
    grasp_repeats: int = 1
    """How often a frame is drawn that comes up to 12 steps before the gripper opens or closes,
    where another is drawn once, at least 1."""
    only_safe: bool = False
    """Imitate only episodes in which the obstacle was neither touched nor moved."""
    ema_decay: float = 0.998
    """Decay of the moving average of the weights, [0, 1); the checkpoint holds that average."""
    colour_jitter: float = 0.1
    """Largest relative change of the images' brightness and contrast, [0, 1)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ranges(self, noise_draws="[1, inf)", ema_decay="[0, 1)", colour_jitter="[0, 1)")
        check_ranges(self, longest_delay=f"[0, {self.size.chunk_length})")
        check_ranges(self, aside="[0, inf)", place_weight="[0, inf)", grasp_repeats="[1, inf)")


def demonstrated_batch(
    policy: PI0Policy,
    data: Demonstrations,
    count: int,
    colour_jitter: float,
    generator: torch.Generator,
) -> PolicyBatch:
    """`count` random frames and the chunks after them, as `policy` takes them, on its device."""
    drawn = torch.randint(len(data.imitated), (count,), generator=generator)
    frames = data.imitated[drawn]
    rows, exists = data.chunk_rows(frames, policy.chunk_length)
    device = policy.device
    images = to_unit(data.images[frames].to(device))
    tokens = policy.tokenise([data.instructions[i] for i in data.sentence[frames].tolist()])
    return PolicyBatch(
        jitter(images, colour_jitter, generator),
        tokens.to(device),
        policy.scales.state.normalise(data.state[frames]).to(device),
        policy.scales.action.normalise(data.actions[rows]).to(device),
        policy.scales.action.normalise(data.executed[rows]).to(device),
        exists.to(device),
        data.places(frames).to(device),
    )


def check_start(start: PI0Policy, size: PI0Size, data: Demonstrations) -> None:
    """Raise `ConfigError` unless `start` can be fine-tuned with this size and data."""
    if size.trained() != start.size.trained():
        raise ConfigError(
            f"policy {start.checkpoint_id} is of {start.size}, the preset of {size}; choose the "
            "preset that it was trained with"
        )
    unknown = sorted(set(data.instructions) - set(start.instructions))
    if unknown or data.cameras != start.cameras:
        raise ConfigError(
            f"policy {start.checkpoint_id} knows {start.cameras} and {list(start.instructions)}; "
            f"the data has {data.cameras} and the new sentences {unknown}"
        )
    if data.resize != start.resize:
        raise ConfigError(
            f"policy {start.checkpoint_id} saw images made to fit by '{start.resize}', those of "
            f"the data were by '{data.resize}'; use data of its rule"
        )


def new_policy(size: PI0Size, data: Demonstrations) -> PI0Policy:
    """An untrained policy with the data's instructions, cameras and normalisation."""
    state, actions = data.state.numpy(), data.actions.numpy()
    words, sentences = train_tokenizer(data.instructions), data.instructions
    scales = RobotScales.from_data(state, actions, data.contract, data.resize)
    if size.places and not scales.moves_gripper:
        raise ConfigError(
            "the data's states do not begin with a pose, which size.places needs; set it to false"
        )
    return PI0Policy(size, words, scales, sentences, data.cameras)


def jitter(images: torch.Tensor, amount: float, generator: torch.Generator) -> torch.Tensor:
    """Change brightness and contrast of each observation, all cameras alike."""
    shape = (len(images), 1, 1, 1, 1)
    contrast = 1 + amount * (2 * torch.rand(shape, generator=generator) - 1)
    brightness = amount * (2 * torch.rand(shape, generator=generator) - 1)
    return (images * contrast.to(images) + brightness.to(images)).clamp(-1, 1)


def train_policy(
    config: ImitationConfig,
    data: Demonstrations,
    directory: Path,
    resume: bool = False,
    device: str = "cpu",
    start: PI0Policy | None = None,
) -> PI0Policy:
    """Train in `directory` and leave the averaged policy in `directory`/checkpoint.

    start: a policy to fine-tune, in place of random weights.
    """
    run = TrainingRun(directory, resume)
    torch.manual_seed(config.seed)
    if start is not None:
        check_start(start, config.size, data)
    check_side(data.images, config.size.image_size)
    policy = (start or new_policy(config.size, data)).to(device)
    policy.longest_delay = config.longest_delay
    average = AveragedModel(policy.network, multi_avg_fn=get_ema_multi_avg_fn(config.ema_decay))
    data = data.emphasised(config.grasp_repeats)

    def loss(step: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        batch = demonstrated_batch(policy, data, config.batch_size, config.colour_jitter, generator)
        with fast_products(policy.network):
            acting, prefix = imitation_loss(
                policy, batch, config.noise_draws, config.longest_delay, config.aside, generator
            )
        if prefix.places is None:
            return {"loss": acting, "acting": acting}
        places = Places.loss(prefix.places, batch.places)
        return {"loss": acting + config.place_weight * places, "acting": acting, "places": places}

    def averaged(weights: Mapping[str, torch.Tensor]) -> PI0Policy:
        return policy.copied(weights, config.size)

    fit(
        "policy",
        policy.network,
        loss,
        config,
        run,
        average=average,
        saved=lambda weights: write_checkpoint(averaged(weights), directory / "checkpoint"),
    )
    return averaged(average.module.state_dict())


def write_checkpoint(policy: PI0Policy, directory: Path) -> None:
    """Save into `directory`, which is made if it is missing."""
    directory.mkdir(parents=True, exist_ok=True)
    policy.save(directory)
