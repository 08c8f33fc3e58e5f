"""The safety head: latent context and action chunk → P(cost) for each step of the chunk.

The first cost is contact; others are those that were registered when it was trained.

SafeDojo's method, a convolutional encoder of the latent context and an MLP over the chunk, with one
difference: the MLP is asked about every step by itself, by where the gripper would be before and
after it, and all steps share its weights. So the image has to show where objects are, the state
where the gripper is, and the image may be of another frame of the same scene. In training it often
is (`learning.safety_head`); in imagination it is the real frame that a future began with.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from safedojo_ros.core.config import check_ranges
from safedojo_ros.core.contact_examples import ContactExamples
from safedojo_ros.core.costs import CostLimit, read_limits
from safedojo_ros.core.errors import ChunkRejected, ConfigError
from safedojo_ros.core.types import COST_M, ActionChunk, Observation
from safedojo_ros.models.autoencoder import AutoencoderSize, FrameAutoencoder
from safedojo_ros.models.contact_examples import read_examples, write_examples
from safedojo_ros.models.images import stack_images
from safedojo_ros.models.normalisation import RobotScales, unit_scales
from safedojo_ros.models.seen_images import SeenImages
from safedojo_ros.models.weights import (
    build_and_load,
    fitting,
    identity,
    known_cameras,
    number,
    read_config,
    robot_spec,
    save_weights,
    section,
    write_config,
)

ARCHITECTURE = "safety_head"


@dataclass(frozen=True)
class SafetyHeadSize:
    """How large the safety head is and what it judges."""

    width: int = 32
    """Channels of the context encoder, [8, 1024], a multiple of 8."""
    hidden: int = 256
    """Width of the MLPs, [1, 8192]."""
    chunk_length: int = 8
    """H, steps of a chunk, [1, 64]."""
    dropout: float = 0.1
    """Share of the context's features that training drops, [0, 1)."""
    octaves: int = 4
    """Sines and cosines of a position that the MLP gets beside its coordinates, [0, 16]."""

    def __post_init__(self) -> None:
        check_ranges(self, width="[8, 1024]", hidden="[1, 8192]", chunk_length="[1, 64]")
        check_ranges(self, dropout="[0, 1)", octaves="[0, 16]")
        if self.width % 8:
            raise ConfigError(f"width is {self.width}, expected a multiple of 8")


class SafetyHead(torch.nn.Module):
    """(latents, state, chunk) → logits of `costs` costs, all inputs normalised by `scales`."""

    def __init__(
        self,
        size: SafetyHeadSize,
        channels: int,
        latent_size: int,
        scales: RobotScales,
        costs: int = 1,
    ) -> None:
        super().__init__()
        self.size = size
        width, hidden = size.width, size.hidden
        self.context = torch.nn.Sequential(
            torch.nn.Conv2d(channels, width, 3, padding=1),
            torch.nn.GroupNorm(8, width),
            torch.nn.SiLU(),
            torch.nn.Conv2d(width, width, 3, stride=2, padding=1),
            torch.nn.GroupNorm(8, width),
            torch.nn.SiLU(),
            torch.nn.Flatten(),
            torch.nn.Linear(width * ((latent_size + 1) // 2) ** 2, hidden),
            torch.nn.Dropout(size.dropout),
            torch.nn.Linear(hidden, hidden),
        )
        positions = 2 * 3 * (1 + 2 * size.octaves)
        self.query = torch.nn.Sequential(
            torch.nn.Linear(positions + scales.state_size + scales.action_size + 1, hidden),
            torch.nn.SiLU(),
            torch.nn.Linear(hidden, hidden),
        )
        self.mlp = torch.nn.Sequential(
            torch.nn.SiLU(),
            torch.nn.Dropout(size.dropout),
            torch.nn.Linear(hidden, hidden),
            torch.nn.SiLU(),
            torch.nn.Dropout(size.dropout),
            torch.nn.Linear(hidden, hidden),
            torch.nn.SiLU(),
            torch.nn.Linear(hidden, costs),
        )
        self.temperature: torch.Tensor
        self.register_buffer("temperature", torch.ones(() if costs == 1 else costs))
        # a normalised action → its displacement, in normalised positions, where it is a step
        self.moves_gripper = scales.moves_gripper
        self.stride: torch.Tensor
        self.drift: torch.Tensor
        spread = scales.state.scale[:3]
        if self.moves_gripper:
            self.register_buffer("stride", scales.action.scale[:3] / spread, persistent=False)
            self.register_buffer("drift", scales.action.mean[:3] / spread, persistent=False)

    def forward(
        self, latents: torch.Tensor, state: torch.Tensor, chunk: torch.Tensor
    ) -> torch.Tensor:
        """latents (B, cameras·C, s, s), state (B, 8), chunk (B, H, 7) → logits (B, H, C).

        C: its costs, contact first.
        Several chunks (B, K, H, 7) for each context give (B, K, H, C); they may begin in different
        states (B, K, 8). The latents may be of an earlier frame than the state, as long as nothing
        but the gripper, and what it carries, has moved since.
        """
        several = chunk.ndim == 4
        if not several:
            chunk = chunk[:, None]
        if state.ndim == 2:
            state = state[:, None].expand(-1, chunk.shape[1], -1)
        logits = self.answers(self.context(latents)[:, None], state, chunk)
        return logits if several else logits[:, 0]

    def answers(
        self, contexts: torch.Tensor, state: torch.Tensor, chunk: torch.Tensor
    ) -> torch.Tensor:
        """Logits (B, K, H, C) of state (B, K, 8) and chunk (B, K, H, 7), mean over M `contexts`.

        contexts: (B, M, hidden), what `context` made of the latents of M frames of a scene.
        """
        asked = self.query(self._steps(state, chunk))[:, None] + contexts[:, :, None, None]
        logits: torch.Tensor = self.mlp(asked).mean(1) / self.temperature
        return logits

    def _steps(self, state: torch.Tensor, chunk: torch.Tensor) -> torch.Tensor:
        """What the MLP is told about every step, (B, K, H, …), of state (B, K, 8) and chunk."""
        here = torch.nn.functional.pad(state[..., None, :3], (0, max(0, 3 - state.shape[-1])))
        if self.moves_gripper:
            path = chunk[..., :3] * self.stride + self.drift
        else:
            path = torch.zeros_like(here).expand(*chunk.shape[:-1], 3)
        after = here + path.cumsum(-2)
        place = torch.linspace(-1.0, 1.0, chunk.shape[-2]).to(chunk)[:, None]
        return torch.cat(
            [
                self._waves((after - path) / 2),
                self._waves(after / 2),
                state[..., None, :].expand(*chunk.shape[:-1], -1),
                chunk,
                place.expand(*chunk.shape[:-1], -1),
            ],
            dim=-1,
        )

    def _waves(self, position: torch.Tensor) -> torch.Tensor:
        """Positions (…, 3) with their sines and cosines (…, 3 (1 + 2 octaves))."""
        phases = [position * (torch.pi / 2 * 2**k) for k in range(self.size.octaves)]
        waves = [wave(phase) for phase in phases for wave in (torch.sin, torch.cos)]
        return torch.cat([position, *waves], dim=-1)


class SafetyModel:
    """Autoencoder, head and normalisation: everything that a safety checkpoint holds.

    cost_m: how many of the largest step costs make the chunk cost, [1, H]; cost_limit: the chunk
    cost that the policy is asked to stay under, (0, 1); contact_threshold: step cost above which an
    episode counts as one with contact, chosen so that as many do as really had one, [0, 1];
    examples: held-out chunks that it is examined by when it is to judge, None where there are none;
    others: the costs beside contact, in the order in which it predicts them.
    """

    def __init__(
        self,
        autoencoder: FrameAutoencoder,
        size: SafetyHeadSize,
        scales: RobotScales,
        cameras: tuple[str, ...] = ("agentview", "wrist"),
        cost_m: int = COST_M,
        cost_limit: float = 0.2,
        checkpoint_id: str = "",
        contact_threshold: float = 0.5,
        examples: ContactExamples | None = None,
        others: tuple[CostLimit, ...] = (),
    ) -> None:
        self.examples, self.others = examples, others
        self.contact_threshold = contact_threshold
        self.cost_m, self.cost_limit, self.checkpoint_id = cost_m, cost_limit, checkpoint_id
        self.seen: SeenImages | None = None
        check_ranges(self, cost_m=f"[1, {size.chunk_length}]", cost_limit="(0, 1)")
        check_ranges(self, contact_threshold="[0, 1]")
        self.autoencoder, self.cameras = autoencoder, tuple(cameras)
        channels = autoencoder.size.latent_channels * len(cameras)
        self.head = SafetyHead(
            size, channels, autoencoder.size.latent_size, scales, 1 + len(others)
        )
        self.network = torch.nn.ModuleDict({"autoencoder": autoencoder, "head": self.head})
        self.scales = scales
        self.chunk_length, self.image_size = size.chunk_length, autoencoder.size.image_size

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return next(self.network.parameters()).device

    def to(self, device: torch.device | str) -> "SafetyModel":
        """Move the networks."""
        self.network.to(device)
        return self

    def step_cost(self, observations: list[Observation], actions: np.ndarray) -> np.ndarray:
        """(B, H) P(contact) of each step of `actions` (B, H, 7), metres and radians.

        Several chunks (B, K, H, 7) for each observation give (B, K, H). Raises
        `ObservationRejected` or `ChunkRejected` for input that does not fit.
        """
        return self.judged(self.contexts(observations)[:, None], observations, actions)

    def step_costs(self, observations: list[Observation], actions: np.ndarray) -> np.ndarray:
        """As `step_cost`, of every cost: (B, H, C) or (B, K, H, C), contact first."""
        return self.judged_costs(self.contexts(observations)[:, None], observations, actions)

    @torch.no_grad()
    def contexts(self, observations: list[Observation], any_image: bool = False) -> torch.Tensor:
        """(B, hidden): what the head takes from the images of each observation.

        Raises `ObservationRejected` for images that do not fit, and for those that are too far
        from what the head has `seen`, unless `any_image` will do.
        """
        self.network.eval()
        images = stack_images(observations, self.cameras, self.image_size, self.scales.state_size)
        latents = self.encode(images.to(self.device))
        if self.seen is not None and not any_image:
            self.seen.check(images, latents.cpu())
        context: torch.Tensor = self.head.context(latents)
        return context

    def judged(
        self, contexts: torch.Tensor, observations: list[Observation], actions: np.ndarray
    ) -> np.ndarray:
        """As `step_cost`, by the mean logit of M `contexts` (B, M, hidden) of each observation.

        Only the states of the observations count.
        """
        return self.judged_costs(contexts, observations, actions)[..., 0]

    @torch.no_grad()
    def judged_costs(
        self, contexts: torch.Tensor, observations: list[Observation], actions: np.ndarray
    ) -> np.ndarray:
        """As `judged`, of every cost; see `step_costs`."""
        actions = np.asarray(actions, dtype=np.float32)
        size = self.scales.action_size
        wanted = (len(observations), self.chunk_length, size)
        if actions.ndim not in (3, 4) or actions.shape[:1] + actions.shape[-2:] != wanted:
            raise ChunkRejected(f"chunks have shape {actions.shape}, expected {wanted}")
        for chunk in actions.reshape(-1, *wanted[1:]):
            ActionChunk(chunk).validate(action_size=size)
        self.network.eval()
        state = torch.from_numpy(np.stack([o.state for o in observations]).astype(np.float32))
        chunks = self.scales.action.normalise(torch.from_numpy(actions))
        chunks = chunks.reshape(len(chunks), -1, *wanted[1:])
        states = self.scales.state.normalise(state)[:, None].expand(-1, chunks.shape[1], -1)
        logits = self.head.answers(contexts, states.to(self.device), chunks.to(self.device))
        costs = torch.sigmoid(logits).reshape(*actions.shape[:-1], -1)
        return costs.cpu().numpy().astype(np.float64)

    def costs_of(self, examples: ContactExamples) -> np.ndarray:
        """(N, H) as `step_cost` of each example; every scene's image is encoded once."""
        first = np.unique(examples.scene, return_index=True)
        images = [examples.observation(number) for number in first[1]]
        scenes = self.contexts(images, any_image=True)  # what it was trained on, the rare ones too
        contexts = scenes[np.searchsorted(first[0], examples.scene)][:, None]
        every = [examples.observation(number) for number in range(len(examples.scene))]
        return self.judged(contexts, every, examples.chunks)

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """(B, cameras, 3, S, S) → (B, cameras·C, s, s) latents."""
        latents = self.autoencoder.encode(images.flatten(0, 1))
        return latents.unflatten(0, images.shape[:2]).flatten(1, 2)

    @property
    def resize(self) -> str:
        """The rule by which its images became square; see `core.types.RESIZES`."""
        return self.scales.resize

    def spec(self) -> dict[str, Any]:
        """Inputs and outputs, for the manifest."""
        sizes = self.image_size, self.chunk_length
        spec = robot_spec(self.cameras, *sizes, self.scales.contract, self.resize)
        return spec | ({"costs": [each.name for each in self.others]} if self.others else {})

    def save(self, directory: Path, half: bool = False) -> None:
        """Write config.json, model.safetensors and its examples into an existing directory."""
        others = {"costs": [asdict(each) for each in self.others]} if self.others else {}
        write_config(
            directory,
            ARCHITECTURE,
            size=asdict(self.head.size),
            autoencoder=self.autoencoder.config(),
            cameras=list(self.cameras),
            cost_m=self.cost_m,
            cost_limit=self.cost_limit,
            contact_threshold=self.contact_threshold,
            **others,
            **self.scales.to_config(),
        )
        save_weights(self.network, directory / "model.safetensors", half)
        if self.seen is not None:
            self.seen.save(directory)
        if self.examples is not None:
            write_examples(self.examples, directory)

    @staticmethod
    def load(directory: Path) -> "SafetyModel":
        """Read a checkpoint directory; raises `CheckpointError` that says what does not fit."""
        config = read_config(directory, ARCHITECTURE)
        autoencoder = section(AutoencoderSize, config, "autoencoder")
        size = section(SafetyHeadSize, config, "size")
        scales = RobotScales.from_config(config)
        cameras = known_cameras(config)
        cost_m = number(config, "cost_m", 1, size.chunk_length)
        cost_limit = number(config, "cost_limit", 0.0, 1.0)
        threshold = number(config, "contact_threshold", 0.0, 1.0, default=0.5)
        with fitting(directory):
            others = read_limits(config)
        sizes = scales.state_size, scales.action_size
        examples = read_examples(
            directory, cameras, autoencoder.image_size, size.chunk_length, *sizes
        )

        def build() -> SafetyModel:
            return SafetyModel(
                FrameAutoencoder(autoencoder),
                size,
                scales,
                cameras,
                cost_m,
                cost_limit,
                checkpoint_id=identity(directory),
                contact_threshold=threshold,
                examples=examples,
                others=others,
            )

        model = build_and_load(build, lambda model: model.network, directory)
        model.seen = SeenImages.load(directory, cameras, autoencoder.latent_channels)
        return model


def tiny_safety(
    seed: int = 0, image_size: int = 64, others: tuple[CostLimit, ...] = ()
) -> SafetyModel:
    """A safety model with random weights, for tests."""
    torch.manual_seed(seed)
    return SafetyModel(
        FrameAutoencoder(AutoencoderSize(widths=(8, 8, 16, 16), image_size=image_size)),
        SafetyHeadSize(width=8, hidden=32),
        unit_scales(),
        checkpoint_id=f"tiny{seed}",
        others=others,
    )
