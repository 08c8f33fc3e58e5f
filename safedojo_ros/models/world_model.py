"""The world model: diffusers' Wan transformer over frame latents, driven by action chunks.

Context frames stay clean (timestep 0 of their tokens), the chunk's frames are denoised by flow
matching that starts at the last seen frame, so that standing still is what needs no learning:
x_t = (1 − t)·frame + t·start, start = last + noise, velocity = start − frame. Actions enter through
cross-attention, one token a step, each with the state that the arm is predicted to reach. What the
cameras see of an arm in that state is drawn beside the latents, with the number of the frame, since
Wan's tokens know only how far they are apart. The cameras' latents lie side by side in one image.
The first frame of the context is remembered for the whole future, so that what the arm hides is not
forgotten. The proprioceptive state is predicted, too, since imagination has no joint sensors.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from safedojo_ros.core.config import check_ranges
from safedojo_ros.core.errors import ConfigError
from safedojo_ros.models.autoencoder import AutoencoderSize, FrameAutoencoder
from safedojo_ros.models.frames_transformer import FramesTransformer
from safedojo_ros.models.normalisation import RobotScales
from safedojo_ros.models.weights import (
    build_and_load,
    identity,
    known_cameras,
    read_config,
    robot_spec,
    save_weights,
    section,
    write_config,
)

ARCHITECTURE = "wan_world_model"
MAX_TOKENS = 8192
"""Of all frames of all cameras: attention grows with the square of it."""
STATE_BOUND = 5.0
"""Standard deviations beyond which a state no longer changes the arm's drawing."""


@dataclass(frozen=True)
class WorldModelSize:
    """How large the world model is and what it sees."""

    heads: int = 4
    """Attention heads of a layer, [1, 64]."""
    head_dim: int = 32
    """Width of a head, [1, 512]."""
    layers: int = 4
    """Layers of the transformer, [1, 64]."""
    feed_forward: int = 512
    """Width of a layer's MLP, [1, 32768]."""
    action_width: int = 64
    """Width in which an action is given to the cross-attention, [1, 8192]."""
    context: int = 2
    """Clean frames before the chunk: the first remembered from the start of the future, the others
    the newest; [2, 16]."""
    stride: int = 4
    """Control steps between two frames, [1, 64]."""
    chunk_length: int = 8
    """H, steps of a chunk, [1, 64], a multiple of stride."""
    denoising_steps: int = 1
    """Equal Euler steps of a sample, from t = 1 to 0, [1, 100]."""
    noise_scale: float = 0.3
    """Standard deviation of the noise around the last frame, latents having about 1; (0, 10]."""
    drawing: int = 256
    """Width of the network that draws the arm, [1, 8192]."""
    patch: int = 2
    """Cells of the latent along a side of a token, [1, 16]."""

    def __post_init__(self) -> None:
        check_ranges(self, heads="[1, 64]", head_dim="[1, 512]", layers="[1, 64]")
        check_ranges(self, feed_forward="[1, 32768]", action_width="[1, 8192]")
        check_ranges(self, context="[2, 16]", stride="[1, 64]", chunk_length="[1, 64]")
        check_ranges(self, denoising_steps="[1, 100]", noise_scale="(0, 10]")
        check_ranges(self, drawing="[1, 8192]", patch="[1, 16]")
        if self.chunk_length % self.stride:
            raise ConfigError(
                f"chunk_length is {self.chunk_length} and stride {self.stride}: "
                "expected chunks of whole strides"
            )

    @property
    def future(self) -> int:
        """Frames that a chunk adds."""
        return self.chunk_length // self.stride


class StateDynamics(torch.nn.Module):
    """Where the arm will be: state, chunk and view → state after every step, all normalised.

    The chunk enters as steps and summed up to the path that they make; the path moves the state
    through one linear map, and a recurrent network adds what is not so simple. Only the view says
    whether something is between the fingers, and so how far they can close. Changes are counted
    in `spread` (H, 8), how much each number of the state usually changes within so many steps:
    they are small beside the states themselves.
    """

    def __init__(
        self,
        chunk_length: int,
        cells: tuple[int, int, int],
        state_size: int,
        action_size: int,
        hidden: int = 128,
    ) -> None:
        """cells: C, h, w of the latents of a view."""
        super().__init__()
        self.spread: torch.Tensor
        self.register_buffer("spread", torch.ones(chunk_length, state_size))
        channels, height, width = cells
        self.view = torch.nn.Sequential(
            torch.nn.Conv2d(channels, 2 * channels, 3, stride=2, padding=1),
            torch.nn.SiLU(),
            torch.nn.Flatten(),
            torch.nn.Linear(2 * channels * -(-height // 2) * -(-width // 2), hidden),
        )
        self.start = torch.nn.Linear(state_size, hidden)
        self.cell = torch.nn.GRU(2 * action_size, hidden, batch_first=True)
        self.travel = torch.nn.Linear(action_size, state_size, bias=False)
        self.change = torch.nn.Sequential(
            torch.nn.Linear(hidden + state_size, hidden),
            torch.nn.SiLU(),
            torch.nn.Linear(hidden, state_size),
        )

    def forward(self, state: torch.Tensor, chunk: torch.Tensor, view: torch.Tensor) -> torch.Tensor:
        """state (B, 8), chunk (B, H, 7), view (B, C, h, w), the newest latents → (B, H, 8)."""
        memory = torch.tanh(self.start(state) + self.view(view))[None]
        path = chunk.cumsum(dim=1) / chunk.shape[1] ** 0.5
        hidden, _ = self.cell(torch.cat([chunk, path], dim=-1), memory)
        known = state[:, None].expand(-1, chunk.shape[1], -1)
        change = self.travel(path) + self.change(torch.cat([hidden, known], dim=-1))
        return known + self.spread * change


class ArmDrawing(torch.nn.Module):
    """What the cameras see of an arm in some state, on average over scenes: state → latents."""

    def __init__(self, cells: tuple[int, int, int], hidden: int, state_size: int) -> None:
        super().__init__()
        self.cells = cells
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(state_size, hidden),
            torch.nn.SiLU(),
            torch.nn.Linear(hidden, hidden),
            torch.nn.SiLU(),
            torch.nn.Linear(hidden, cells[0] * cells[1] * cells[2]),
        )

    def forward(self, state: torch.Tensor) -> torch.Tensor:
        """Normalised state (..., 8) → (..., C, h, w)."""
        drawn: torch.Tensor = self.layers(state.clamp(-STATE_BOUND, STATE_BOUND))
        return drawn.unflatten(-1, self.cells)


class WorldModelNetwork(torch.nn.Module):
    """Velocity of noisy future frames, and future states. cells: C, h, w of a frame's latents."""

    def __init__(
        self,
        size: WorldModelSize,
        cells: tuple[int, int, int],
        state_size: int,
        action_size: int,
    ) -> None:
        super().__init__()
        self.size = size
        channels = cells[0]
        self.frames: Any = FramesTransformer(
            patch_size=(1, size.patch, size.patch),
            num_attention_heads=size.heads,
            attention_head_dim=size.head_dim,
            in_channels=2 * channels + state_size + size.context + size.future,
            out_channels=channels,
            text_dim=size.action_width,
            freq_dim=64,
            ffn_dim=size.feed_forward,
            num_layers=size.layers,
            rope_max_seq_len=64,
        )
        self.action_token = torch.nn.Linear(action_size + state_size, size.action_width)
        self.step_token = torch.nn.Parameter(
            0.02 * torch.randn(size.chunk_length, size.action_width)
        )
        self.state = StateDynamics(size.chunk_length, cells, state_size, action_size)
        self.drawing = ArmDrawing(cells, size.drawing, state_size)

    def velocity(
        self,
        context: torch.Tensor,
        noisy: torch.Tensor,
        time: torch.Tensor,
        state: torch.Tensor,
        chunk: torch.Tensor,
    ) -> torch.Tensor:
        """context (B, F_c, C, h, w), noisy (B, F, C, h, w), time (B,) in [0, 1] → (B, F, C, h, w).

        state (B, 8) at the chunk's start and chunk (B, H, 7) are normalised.
        """
        with torch.no_grad():  # the frames do not teach it
            reached = self.state(state, chunk, context[:, -1])
        clip = torch.cat([context, noisy], dim=1)
        clip = torch.cat([clip, self._labels(clip, state, reached)], dim=2).transpose(1, 2)
        actions = self.action_token(torch.cat([chunk, reached], dim=-1)) + self.step_token
        velocity: torch.Tensor = self.frames(clip, context.shape[1], time, actions)
        return velocity.transpose(1, 2)

    def _labels(
        self, clip: torch.Tensor, state: torch.Tensor, reached: torch.Tensor
    ) -> torch.Tensor:
        """Beside every frame (B, F, C + 8 + F, h, w): the arm drawn, its state, the frame's number.

        The newest frames of the context are given the state at the chunk's start; of the
        remembered one no state is known, so nothing is drawn beside it.
        """
        count, frames = clip.shape[:2]
        newest = state[:, None].expand(-1, self.size.context - 1, -1)
        states = torch.cat([newest, reached[:, self.size.stride - 1 :: self.size.stride]], dim=1)
        constant = torch.cat([torch.zeros_like(states[:, :1]), states], dim=1)
        number = torch.eye(frames, device=clip.device).expand(count, -1, -1)
        constant = torch.cat([constant, number], dim=-1)[..., None, None]
        drawn = self.drawing(states)
        drawn = torch.cat([torch.zeros_like(drawn[:, :1]), drawn], dim=1)
        return torch.cat([drawn, constant.expand(-1, -1, -1, *clip.shape[-2:])], dim=2)


class WorldModel:
    """Autoencoder, network and normalisation: everything that a world-model checkpoint holds."""

    def __init__(
        self,
        autoencoder: FrameAutoencoder,
        size: WorldModelSize,
        scales: RobotScales,
        cameras: tuple[str, ...] = ("agentview", "wrist"),
        checkpoint_id: str = "",
    ) -> None:
        self.autoencoder, self.size, self.cameras = autoencoder, size, tuple(cameras)
        side = autoencoder.size.latent_size
        tokens = (size.context + size.future) * len(cameras) * (side // size.patch) ** 2
        if side % size.patch or tokens > MAX_TOKENS:
            raise ConfigError(
                f"patch is {size.patch}, expected a divisor of the latents' side {side} that makes "
                f"at most {MAX_TOKENS} tokens of all frames, not {tokens}"
            )
        cells = (autoencoder.size.latent_channels, side, side * len(cameras))
        sizes = scales.state_size, scales.action_size
        self.network = WorldModelNetwork(size, cells, *sizes)
        self.parts = torch.nn.ModuleDict({"autoencoder": autoencoder, "network": self.network})
        self.scales = scales
        self.checkpoint_id = checkpoint_id

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return next(self.parts.parameters()).device

    def to(self, device: torch.device | str) -> "WorldModel":
        """Move the networks."""
        self.parts.to(device)
        return self

    @torch.no_grad()
    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """(B, F, cameras, 3, S, S) → latents (B, F, C, s, cameras·s), cameras side by side."""
        latents = self.autoencoder.encode(images.flatten(0, 2))
        latents = latents.unflatten(0, images.shape[:3])
        return torch.cat(list(latents.unbind(2)), dim=-1)

    @torch.no_grad()
    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Inverse of `encode`."""
        sides = torch.stack(latents.chunk(len(self.cameras), dim=-1), dim=2)
        images = self.autoencoder.decode(sides.flatten(0, 2))
        return images.unflatten(0, sides.shape[:3])

    @torch.no_grad()
    def imagine(
        self,
        context: torch.Tensor,
        state: torch.Tensor,
        chunk: torch.Tensor,
        noise: torch.Tensor,
        denoising_steps: int | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What `chunk` would do: future latents (B, F, C, h, w) and normalised states (B, H, 8).

        context (B, F_c, C, h, w); state (B, 8) and chunk (B, H, 7) normalised; noise like the
        future latents, so that one future can be drawn again.
        """
        steps = denoising_steps or self.size.denoising_steps
        frames = self.flow_start(context, noise)
        for step in range(steps):
            time = torch.full((len(frames),), 1.0 - step / steps, device=frames.device)
            frames = frames - self.network.velocity(context, frames, time, state, chunk) / steps
        return frames, self.network.state(state, chunk, context[:, -1])

    def advanced(self, context: torch.Tensor, frames: torch.Tensor) -> torch.Tensor:
        """The context (B, F_c, C, h, w) once `frames` (B, F, C, h, w) are seen."""
        newest = torch.cat([context[:, 1:], frames], dim=1)[:, 1 - self.size.context :]
        return torch.cat([context[:, :1], newest], dim=1)

    def stacked(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents (B, C, h, cameras·w) with the cameras as channels, (B, cameras·C, h, w)."""
        return torch.cat(latents.chunk(len(self.cameras), dim=-1), dim=1)

    def flow_start(self, context: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Where the flow begins at t = 1: the last frame of `context`, with noise around it."""
        return context[:, -1:] + self.size.noise_scale * noise

    @property
    def resize(self) -> str:
        """The rule by which its images became square; see `core.types.RESIZES`."""
        return self.scales.resize

    def spec(self) -> dict[str, Any]:
        """Inputs and outputs, for the manifest."""
        image_size = self.autoencoder.size.image_size
        sizes = image_size, self.size.chunk_length
        return robot_spec(self.cameras, *sizes, self.scales.contract, self.resize)

    def save(self, directory: Path, half: bool = False) -> None:
        """Write config.json and model.safetensors into an existing directory."""
        write_config(
            directory,
            ARCHITECTURE,
            size=asdict(self.size),
            autoencoder=self.autoencoder.config(),
            cameras=list(self.cameras),
            **self.scales.to_config(),
        )
        save_weights(self.parts, directory / "model.safetensors", half)

    @staticmethod
    def load(directory: Path) -> "WorldModel":
        """Read a checkpoint directory; raises `CheckpointError` that says what does not fit."""
        config = read_config(directory, ARCHITECTURE)
        autoencoder = section(AutoencoderSize, config, "autoencoder")
        size = section(WorldModelSize, config, "size")
        scales = RobotScales.from_config(config)
        cameras = known_cameras(config)

        def build() -> WorldModel:
            encoder = FrameAutoencoder(autoencoder)
            return WorldModel(encoder, size, scales, cameras, checkpoint_id=identity(directory))

        return build_and_load(build, lambda model: model.parts, directory)
