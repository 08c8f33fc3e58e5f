"""The π0 policy: transformers' PI0ForConditionalGeneration with our tokenizer and normalisation.

Flow matching (Black et al. 2024): at time t = 1 the chunk is noise, at t = 0 it is the action;
x_t = t·noise + (1 − t)·action, and the network predicts the velocity noise − action.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from transformers import PI0ForConditionalGeneration

from safedojo_ros.core.errors import ConfigError
from safedojo_ros.core.files import write_whole
from safedojo_ros.core.types import Observation
from safedojo_ros.models.images import stack_images
from safedojo_ros.models.instructions import (
    TOKENIZER_FILE,
    check_instruction,
    read_tokenizer,
    train_tokenizer,
)
from safedojo_ros.models.normalisation import RobotScales, unit_scales
from safedojo_ros.models.pi0_network import ConvolutionalStem, PI0Size, network_config
from safedojo_ros.models.places import Places
from safedojo_ros.models.prefix import Known, Prefix
from safedojo_ros.models.weights import (
    build_and_load,
    identity,
    known_cameras,
    known_instructions,
    number,
    read_config,
    robot_spec,
    save_weights,
    section,
    write_config,
)

ARCHITECTURE = "pi0"

_NAMES = signature(PI0ForConditionalGeneration.forward).parameters
CACHE = "cache" if "cache" in _NAMES else "past_key_values"
"""What transformers calls the keys and values that it keeps; releases differ."""


class PI0Policy:
    """A π0 network, its tokenizer and its normalisation: everything that a checkpoint holds."""

    def __init__(
        self,
        size: PI0Size,
        tokenizer: Tokenizer,
        scales: RobotScales,
        instructions: Sequence[str],
        cameras: tuple[str, ...] = ("agentview", "wrist"),
        checkpoint_id: str = "",
        longest_delay: int = 0,
    ) -> None:
        self.size, self.tokenizer = size, tokenizer
        self.longest_delay = longest_delay
        self.scales = scales
        self.instructions = tuple(sorted(set(instructions)))
        self.cameras, self.checkpoint_id = tuple(cameras), checkpoint_id
        self.chunk_length, self.image_size = size.chunk_length, size.image_size
        self.network: Any = PI0ForConditionalGeneration(
            network_config(size, tokenizer.get_vocab_size(), scales.state_size, scales.action_size)
        )
        if size.stem:
            embeddings = self.network.model.vlm.vision_tower.embeddings
            embeddings.patch_embedding = ConvolutionalStem(size.width, size.patch)
        if size.places:
            self.network.places = Places(self.feature_size, size.expert_width)
        self.device = torch.device("cpu")

    def act(
        self, observations: list[Observation], generators: list[torch.Generator] | None = None
    ) -> np.ndarray:
        """(B, H, 7) actions; see `models.policy.Policy.act`."""
        return self.propose(observations, generators)[:, 0]

    @torch.no_grad()
    def propose(
        self,
        observations: list[Observation],
        generators: list[torch.Generator] | None = None,
        count: int = 1,
        committed: Sequence[np.ndarray] | None = None,
    ) -> np.ndarray:
        """(B, K, H, 7) actions; see `models.policy.ProposingPolicy.propose`."""
        images, tokens, state = self.inputs(observations)
        step = (self.chunk_length, self.scales.action_size)
        shape = (count, *step)
        if generators is None:
            noise = torch.randn(len(observations), *shape)
        else:  # one by one, so that the first does not depend on how many there are
            rows = [torch.randn(step, generator=g) for g in generators for _ in range(count)]
            noise = torch.stack(rows).unflatten(0, (-1, count))
        self.network.eval()
        noise = self.size.temperature * noise.flatten(0, 1).to(self.device)
        prefix = self.prefix(images, tokens)
        if count > 1:
            prefix, state = prefix.repeated(count), state.repeat_interleave(count, 0)
        known = None if committed is None else self._known(committed, count)
        chunks = self.physical(self.denoise(prefix, state, noise, known))
        chunks = chunks.reshape(len(observations), *shape)
        for row, actions in enumerate(committed or ()):
            chunks[row, :, : len(actions)] = self.scales.bounded(actions)
        return chunks

    def _known(self, committed: Sequence[np.ndarray], count: int) -> Known:
        """What is committed, for `count` chunks an observation."""
        shape = len(committed), self.chunk_length
        actions = np.zeros((*shape, self.scales.action_size), np.float32)
        mask = np.zeros(shape, bool)
        for row, first in enumerate(committed):
            if len(first) >= self.chunk_length:
                raise ConfigError(
                    f"{len(first)} steps are committed, expected fewer than the {shape[1]} of a "
                    "chunk"
                )
            actions[row, : len(first)], mask[row, : len(first)] = first, True
        normalised = self.scales.action.normalise(torch.from_numpy(actions)).to(self.device)
        known = Known(normalised, torch.from_numpy(mask).to(self.device))
        return Known(*(part.repeat_interleave(count, 0) for part in known))

    def to(self, device: torch.device | str) -> "PI0Policy":
        """Move the network."""
        self.device = torch.device(device)
        self.network.to(self.device)
        return self

    def copied(self, weights: Mapping[str, torch.Tensor], size: PI0Size) -> "PI0Policy":
        """The same policy with other weights, on the same device, ready to act."""
        policy = PI0Policy(
            size,
            self.tokenizer,
            self.scales,
            self.instructions,
            self.cameras,
            longest_delay=self.longest_delay,
        )
        policy.network.load_state_dict(weights)
        policy.network.eval()
        return policy.to(self.device)

    @property
    def feature_size(self) -> int:
        """F of `Prefix.features`."""
        patches = (self.size.image_size // self.size.patch) ** 2
        tokens = len(self.cameras) * patches + self.size.text_tokens
        return 2 * self.size.layers * tokens * self.size.head_dim

    # ---------------------------------------------------------------- inputs and outputs

    def inputs(
        self, observations: list[Observation]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Images (B, cameras, 3, S, S), tokens (B, L) and normalised state (B, 8), on the device.

        Raises `ObservationRejected`.
        """
        images = stack_images(observations, self.cameras, self.image_size, self.scales.state_size)
        tokens = self.tokenise([o.instruction for o in observations])
        state = torch.from_numpy(np.stack([o.state for o in observations]).astype(np.float32))
        state = self.scales.state.normalise(state)
        return images.to(self.device), tokens.to(self.device), state.to(self.device)

    def physical(self, chunks: torch.Tensor) -> np.ndarray:
        """(B, H, 7) normalised chunks → metres and radians, within bounds."""
        return self.scales.bounded(self.scales.action.restore(chunks.cpu()).numpy())

    def tokenise(self, instructions: Sequence[str]) -> torch.Tensor:
        """(B, text_tokens) int64; raises `ObservationRejected` for a sentence unknown to it."""
        rows = []
        for text in instructions:
            check_instruction(text, self.instructions)
            row = self.tokenizer.encode(text).ids[: self.size.text_tokens]
            rows.append(row + [0] * (self.size.text_tokens - len(row)))
        return torch.tensor(rows, dtype=torch.int64)

    # ---------------------------------------------------------------- network

    def prefix(self, images: torch.Tensor, tokens: torch.Tensor) -> Prefix:
        """Run images (B, cameras, 3, S, S) and tokens (B, L) through the language model once."""
        model = self.network.model
        count, cameras = images.shape[:2]
        patches = (self.image_size // self.size.patch) ** 2
        image_token = self.tokenizer.get_vocab_size()  # as in `network_config`
        seen_tokens = torch.full((count, cameras * patches), image_token, device=tokens.device)
        input_ids = torch.cat([seen_tokens, tokens], dim=1)
        mask = torch.cat([torch.ones_like(seen_tokens), (tokens != 0).long()], dim=1)
        seen = torch.ones(count, cameras, dtype=torch.bool, device=tokens.device)
        embeddings = model.embed_prefix(input_ids, images, seen)
        output = model.vlm(
            inputs_embeds=embeddings,
            attention_mask=mask,
            position_ids=mask.cumsum(-1) - 1,
            token_type_ids=torch.zeros_like(mask),
            use_cache=True,
        )
        prefix = Prefix(getattr(output, CACHE), mask)
        if self.size.places:
            prefix.places = self.network.places.read(prefix.features())
        return prefix

    def velocity(
        self, prefix: Prefix, state: torch.Tensor, chunk: torch.Tensor, time: torch.Tensor
    ) -> torch.Tensor:
        """(B, H, 7) velocity of the noisy normalised `chunk` at `time` (B,), or (B, H) where the
        steps of a chunk have times of their own."""
        length, network = prefix.cache.get_seq_length(), self.network
        hidden = network.model(
            action_embeds=self._suffix(prefix, state, chunk, time),
            attention_mask=prefix.mask,
            **{CACHE: prefix.cache},
        ).last_hidden_state
        prefix.cache.crop(length - prefix.cache.get_seq_length())
        return network.action_out_proj(hidden[:, 1:])

    def _suffix(
        self, prefix: Prefix, state: torch.Tensor, chunk: torch.Tensor, time: torch.Tensor
    ) -> torch.Tensor:
        """(B, 1 + H, expert_width): state and chunk as transformers' π0 embeds them, but with a
        time for each step."""
        embed = self.network.embed_action_time
        times = time if time.ndim == 2 else time[:, None].expand(chunk.shape[:2])
        actions = embed.action_in_proj(chunk)
        when = embed.sinusoid_embeds(times.flatten()).unflatten(0, chunk.shape[:2])
        both = torch.cat([actions, when.to(actions)], dim=2)
        steps = embed.action_time_mlp_out(torch.nn.functional.silu(embed.action_time_mlp_in(both)))
        known = embed.state_proj(state)
        if self.size.places:
            if prefix.places is None:
                prefix.places = self.network.places.read(prefix.features())
            known = known + self.network.places.told(prefix.places)
        return torch.cat([known[:, None], steps], dim=1)

    def denoise(
        self,
        prefix: Prefix,
        state: torch.Tensor,
        noise: torch.Tensor,
        known: Known | None = None,
    ) -> torch.Tensor:
        """(B, H, 7) normalised actions from `noise`, by Euler steps from t = 1 to 0; steps that are
        known stay as they are, at t = 0."""
        steps = self.size.denoising_steps
        chunk = noise if known is None else known.put_into(noise)
        for step in range(steps):
            time = torch.full(chunk.shape[:2], 1.0 - step / steps, device=chunk.device)
            if known is not None:
                time = time.masked_fill(known.mask, 0.0)
            chunk = chunk - self.velocity(prefix, state, chunk, time) / steps
            if known is not None:
                chunk = known.put_into(chunk)
        return chunk

    # ---------------------------------------------------------------- files

    @property
    def resize(self) -> str:
        """The rule by which its images became square; see `core.types.RESIZES`."""
        return self.scales.resize

    def spec(self) -> dict[str, Any]:
        """Inputs and outputs, for the manifest."""
        sizes = self.image_size, self.chunk_length
        return robot_spec(self.cameras, *sizes, self.scales.contract, self.resize)

    def save(self, directory: Path, half: bool = False) -> None:
        """Write config.json, tokenizer.json and model.safetensors into an existing directory."""
        write_config(
            directory,
            ARCHITECTURE,
            size=asdict(self.size),
            longest_delay=self.longest_delay,
            cameras=list(self.cameras),
            instructions=list(self.instructions),
            **self.scales.to_config(),
        )
        write_whole(directory / TOKENIZER_FILE, self.tokenizer.to_str(pretty=True) + "\n")
        save_weights(self.network, directory / "model.safetensors", half)

    @staticmethod
    def load(directory: Path) -> "PI0Policy":
        """Read a checkpoint directory; raises `CheckpointError` that says what does not fit."""
        config = read_config(directory, ARCHITECTURE)
        size = section(PI0Size, config, "size")
        build = partial(
            PI0Policy,
            size,
            read_tokenizer(directory),
            RobotScales.from_config(config),
            known_instructions(config, least=0),
            known_cameras(config),
            checkpoint_id=identity(directory),
            longest_delay=number(config, "longest_delay", 0, size.chunk_length - 1, default=0),
        )
        return build_and_load(build, lambda policy: policy.network, directory)


def tiny_policy(seed: int = 0, instructions: Sequence[str] = ()) -> PI0Policy:
    """A policy with random weights, for tests and the `smoke` preset."""
    torch.manual_seed(seed)
    sentences = list(instructions) or ["put the red cube on the plate"]
    size = PI0Size(width=32, expert_width=32, layers=2, heads=2, head_dim=16, denoising_steps=2)
    return PI0Policy(
        size,
        train_tokenizer(sentences),
        unit_scales(),
        instructions,
        checkpoint_id=f"tiny{seed}",
    )
