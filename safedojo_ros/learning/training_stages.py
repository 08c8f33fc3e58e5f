"""The gradient step of every training stage, with an empty batch: to be counted, or measured."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from safedojo_ros.core.types import ACTION_SIZE, STATE_SIZE
from safedojo_ros.learning.autoencoder import AutoencoderConfig
from safedojo_ros.learning.fit import FitConfig
from safedojo_ros.learning.footprint import Footprint, footprint
from safedojo_ros.learning.imitation import ImitationConfig
from safedojo_ros.learning.policy_losses import PolicyBatch, imitation_loss
from safedojo_ros.learning.products import fast_products
from safedojo_ros.learning.safety_head import SafetyConfig
from safedojo_ros.learning.success import SuccessConfig
from safedojo_ros.learning.world_model import WorldModelConfig
from safedojo_ros.models.autoencoder import FrameAutoencoder
from safedojo_ros.models.instructions import train_tokenizer
from safedojo_ros.models.normalisation import unit_scales
from safedojo_ros.models.pi0_policy import PI0Policy
from safedojo_ros.models.safety_head import SafetyHead
from safedojo_ros.models.success_classifier import SuccessModel
from safedojo_ros.models.world_model import WorldModel

CAMERAS = ("agentview", "wrist")


@dataclass(frozen=True)
class TrainingStage:
    """One training stage.

    loss: of one batch; trained: the parameters that are fitted, None for all; averaged: with a
    moving average of the weights.
    """

    name: str
    config: FitConfig
    network: torch.nn.Module
    loss: Callable[[], torch.Tensor]
    trained: list[torch.nn.Parameter] | None = None
    averaged: bool = False

    def footprint(self) -> Footprint:
        """What one of its steps takes, where it is on the meta device."""
        counted = footprint(self.network, self.loss, trained=self.trained, averaged=self.averaged)
        return replace(counted, accumulated=self.config.batches_per_step > 1)


def policy_stage(
    config: ImitationConfig,
    sentences: Sequence[str],
    bfloat16: bool | None = None,
    device: str = "meta",
) -> TrainingStage:
    """Imitation. bfloat16: whether products are computed in it, see `learning.products`."""
    tokenizer, scales = train_tokenizer(list(sentences)), unit_scales()
    with torch.device(device):
        policy = PI0Policy(config.size, tokenizer, scales, sentences, CAMERAS)
    policy.to(device)
    count, size = config.batch_size, config.size
    chunk = (count, size.chunk_length, ACTION_SIZE)
    batch = PolicyBatch(
        torch.zeros(count, len(CAMERAS), 3, size.image_size, size.image_size, device=device),
        torch.ones(count, size.text_tokens, dtype=torch.int64, device=device),
        torch.zeros(count, STATE_SIZE, device=device),
        torch.zeros(chunk, device=device),
        torch.zeros(chunk, device=device),
        torch.ones(chunk[:2], dtype=torch.bool, device=device),
        torch.zeros(count, 3, 3, device=device),
    )

    def loss() -> torch.Tensor:
        draw = torch.Generator().manual_seed(0)
        with fast_products(policy.network, bfloat16):
            acting, prefix = imitation_loss(
                policy, batch, config.noise_draws, config.longest_delay, config.aside, draw
            )
        return acting if prefix.places is None else acting + prefix.places.square().mean()

    return TrainingStage("policy", config, policy.network, loss, averaged=True)


def autoencoder_stage(
    config: AutoencoderConfig, bfloat16: bool | None = None, device: str = "meta"
) -> TrainingStage:
    """The frame autoencoder."""
    size = config.size
    with torch.device(device):
        network = FrameAutoencoder(size)
    images = torch.zeros(config.batch_size, 3, size.image_size, size.image_size, device=device)
    latent = (config.batch_size, size.latent_channels, size.latent_size, size.latent_size)
    noise = torch.zeros(latent, device=device)

    def loss() -> torch.Tensor:
        with fast_products(network, bfloat16):
            return network.loss(images, config.kl_weight, noise)[0]

    return TrainingStage("autoencoder", config, network, loss)


def world_model_stage(
    config: WorldModelConfig, autoencoder: AutoencoderConfig, device: str = "meta"
) -> TrainingStage:
    """The frames of the world model; its two small networks, which come first, take less."""
    scales, count, size = unit_scales(), config.batch_size, config.size
    with torch.device(device):
        model = WorldModel(FrameAutoencoder(autoencoder.size), size, scales, CAMERAS)
    side = autoencoder.size.latent_size
    cells = (autoencoder.size.latent_channels, side, side * len(CAMERAS))
    context = torch.zeros(count, size.context, *cells, device=device)
    future = torch.zeros(count, size.future, *cells, device=device)
    time = torch.zeros(count, device=device)
    state = torch.zeros(count, STATE_SIZE, device=device)
    chunk = torch.zeros(count, size.chunk_length, ACTION_SIZE, device=device)

    def loss() -> torch.Tensor:
        velocity = model.network.velocity(context, future, time, state, chunk)
        return (velocity - future).square().mean()

    named = model.network.named_parameters()
    trained = [p for name, p in named if not name.startswith("state.")]
    return TrainingStage("world model", config, model.network, loss, trained=trained)


def safety_stage(
    config: SafetyConfig, autoencoder: AutoencoderConfig, device: str = "meta"
) -> TrainingStage:
    """The safety head."""
    scales, count, size = unit_scales(), config.batch_size, autoencoder.size
    channels, side = len(CAMERAS) * size.latent_channels, size.latent_size
    with torch.device(device):
        head = SafetyHead(config.size, channels, side, scales).to(device)
    latents = torch.zeros(count, channels, side, side, device=device)
    state = torch.zeros(count, config.queries, STATE_SIZE, device=device)
    asked = (count, config.queries, config.size.chunk_length, ACTION_SIZE)
    chunk = torch.zeros(asked, device=device)
    return TrainingStage("safety head", config, head, lambda: head(latents, state, chunk).mean())


def success_stage(
    config: SuccessConfig, sentences: Sequence[str], device: str = "meta"
) -> TrainingStage:
    """The success classifier."""
    with torch.device(device):
        model = SuccessModel(config.size, tuple(sentences), CAMERAS)
    side = config.size.image_size
    images = torch.zeros(config.batch_size, len(CAMERAS), 3, side, side, device=device)
    told = torch.zeros(config.batch_size, dtype=torch.int64, device=device)
    loss = lambda: model.logits(images, told).mean()  # noqa: E731
    return TrainingStage("success classifier", config, model.network, loss, averaged=True)
