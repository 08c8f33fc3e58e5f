"""The safety head: latent context and action chunk → P(contact) for each step of the chunk.

SafeDojo's method: a convolutional encoder of the latent context, and an MLP over the chunk. The
context is the current frame of every camera, in the frame autoencoder's latents, with the
proprioceptive state. In imagination the real frame that a future began with may be remembered
beside it: the obstacle is still where it was, also where the newest frames have lost it.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from safedojo_ros.core.errors import ChunkRejected
from safedojo_ros.core.types import (
    ACTION_SIZE,
    STATE_SIZE,
    ActionChunk,
    Observation,
)
from safedojo_ros.models.autoencoder import AutoencoderSize, FrameAutoencoder
from safedojo_ros.models.normalisation import RobotScales, unit_scales
from safedojo_ros.models.pictures import stack_pictures
from safedojo_ros.models.weights import (
    fitting,
    load_weights,
    read_config,
    robot_spec,
    save_weights,
    write_config,
)

ARCHITECTURE = "safety_head"


@dataclass(frozen=True)
class SafetyHeadSize:
    """width: channels of the context encoder; hidden: width of the MLP; chunk_length: H steps;
    remembers: whether a remembered frame is seen beside the newest one.
    """

    width: int = 32
    hidden: int = 256
    chunk_length: int = 8
    dropout: float = 0.1
    remembers: bool = False


class SafetyHead(torch.nn.Module):
    """(latents, state, chunk) → logits of contact, all inputs normalised."""

    def __init__(self, size: SafetyHeadSize, channels: int, latent_size: int) -> None:
        super().__init__()
        self.size = size
        width = size.width
        self.context = torch.nn.Sequential(
            torch.nn.Conv2d(channels * (1 + size.remembers), width, 3, padding=1),
            torch.nn.GroupNorm(8, width),
            torch.nn.SiLU(),
            torch.nn.Conv2d(width, width, 3, stride=2, padding=1),
            torch.nn.GroupNorm(8, width),
            torch.nn.SiLU(),
            torch.nn.Flatten(),
            torch.nn.Linear(width * ((latent_size + 1) // 2) ** 2, size.hidden),
        )
        steps = 2 * size.chunk_length * ACTION_SIZE
        self.mlp = torch.nn.Sequential(
            torch.nn.Linear(size.hidden + STATE_SIZE + steps, size.hidden),
            torch.nn.SiLU(),
            torch.nn.Dropout(size.dropout),
            torch.nn.Linear(size.hidden, size.hidden),
            torch.nn.SiLU(),
            torch.nn.Linear(size.hidden, size.chunk_length),
        )
        self.temperature: torch.Tensor
        self.register_buffer("temperature", torch.ones(()))

    def forward(
        self,
        latents: torch.Tensor,
        state: torch.Tensor,
        chunk: torch.Tensor,
        remembered: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """latents (B, cameras·C, s, s), state (B, 8), chunk (B, H, 7) → logits (B, H).

        Several chunks (B, K, H, 7) for each context give (B, K, H). The chunk enters twice: as
        steps, and summed up to the path that they make. remembered: an earlier frame's latents;
        without it, and on a robot, which sees what is there, the newest stand in.
        """
        if self.size.remembers:
            latents = torch.cat([latents, latents if remembered is None else remembered], dim=1)
        path = chunk.cumsum(dim=-2) / self.size.chunk_length**0.5
        context = torch.cat([self.context(latents), state], dim=1)
        if chunk.ndim == 4:
            context = context[:, None].expand(-1, chunk.shape[1], -1)
        features = [context, chunk.flatten(-2), path.flatten(-2)]
        return self.mlp(torch.cat(features, dim=-1)) / self.temperature


class SafetyModel:
    """Autoencoder, head and normalisation: everything that a safety checkpoint holds.

    cost_m: how many of the largest step costs make the chunk cost; cost_limit: the chunk cost
    that the policy is asked to stay under; contact_threshold: step cost above which an episode
    counts as one with contact, chosen so that as many do as really had one.
    """

    def __init__(
        self,
        autoencoder: FrameAutoencoder,
        size: SafetyHeadSize,
        scales: RobotScales,
        cameras: tuple[str, ...] = ("agentview", "wrist"),
        cost_m: int = 4,
        cost_limit: float = 0.2,
        checkpoint_id: str = "",
        contact_threshold: float = 0.5,
    ) -> None:
        self.contact_threshold = contact_threshold
        self.autoencoder, self.cameras = autoencoder, tuple(cameras)
        channels = autoencoder.size.latent_channels * len(cameras)
        self.head = SafetyHead(size, channels, autoencoder.size.latent_size)
        self.network = torch.nn.ModuleDict({"autoencoder": autoencoder, "head": self.head})
        self.scales = scales
        self.chunk_length, self.image_size = size.chunk_length, autoencoder.size.image_size
        self.cost_m, self.cost_limit, self.checkpoint_id = cost_m, cost_limit, checkpoint_id

    @torch.no_grad()
    def step_cost(self, observations: list[Observation], actions: np.ndarray) -> np.ndarray:
        """(B, H) P(contact) of each step of `actions` (B, H, 7), metres and radians.

        Several chunks (B, K, H, 7) for each observation give (B, K, H). Raises
        `ObservationRejected` or `ChunkRejected` for input that does not fit.
        """
        actions = np.asarray(actions, dtype=np.float32)
        wanted = (len(observations), self.chunk_length, ACTION_SIZE)
        if actions.ndim not in (3, 4) or actions.shape[:1] + actions.shape[-2:] != wanted:
            raise ChunkRejected(f"chunks have shape {actions.shape}, expected {wanted}")
        for chunk in actions.reshape(-1, *wanted[1:]):
            ActionChunk(chunk).validate()
        pictures = stack_pictures(observations, self.cameras, self.image_size)
        state = torch.from_numpy(np.stack([o.state for o in observations]).astype(np.float32))
        self.network.eval()
        logits = self.head(
            self.encode(pictures),
            self.scales.state.normalise(state),
            self.scales.action.normalise(torch.from_numpy(actions)),
        )
        return torch.sigmoid(logits).numpy().astype(np.float64)

    def encode(self, pictures: torch.Tensor) -> torch.Tensor:
        """(B, cameras, 3, S, S) → (B, cameras·C, s, s) latents."""
        latents = self.autoencoder.encode(pictures.flatten(0, 1))
        return latents.unflatten(0, pictures.shape[:2]).flatten(1, 2)

    def spec(self) -> dict[str, Any]:
        """Inputs and outputs, for the manifest."""
        return robot_spec(self.cameras, self.image_size, self.chunk_length)

    def save(self, directory: Path, half: bool = False) -> None:
        """Write config.json and model.safetensors into an existing directory."""
        write_config(
            directory,
            ARCHITECTURE,
            size=asdict(self.head.size),
            autoencoder=self.autoencoder.config(),
            cameras=list(self.cameras),
            cost_m=self.cost_m,
            cost_limit=self.cost_limit,
            contact_threshold=self.contact_threshold,
            normalisation=self.scales.to_json(),
        )
        save_weights(self.network, directory / "model.safetensors", half)

    @staticmethod
    def load(directory: Path) -> "SafetyModel":
        """Read a checkpoint directory; raises `CheckpointError` that says what does not fit."""
        config = read_config(directory, ARCHITECTURE)
        with fitting(directory):
            model = SafetyModel(
                FrameAutoencoder.from_config(config["autoencoder"]),
                SafetyHeadSize(**config["size"]),
                RobotScales.from_json(config["normalisation"]),
                tuple(config["cameras"]),
                int(config["cost_m"]),
                float(config["cost_limit"]),
                checkpoint_id=directory.name,
                contact_threshold=float(config.get("contact_threshold", 0.5)),
            )
        load_weights(model.network, directory / "model.safetensors")
        model.network.eval()
        return model


def tiny_safety(seed: int = 0, remembers: bool = False) -> SafetyModel:
    """A safety model with random weights, for tests."""
    torch.manual_seed(seed)
    return SafetyModel(
        FrameAutoencoder(AutoencoderSize(widths=(8, 8, 16, 16))),
        SafetyHeadSize(width=8, hidden=32, remembers=remembers),
        unit_scales(),
        checkpoint_id=f"tiny{seed}",
    )
