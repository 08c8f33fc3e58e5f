"""The π0 policy: transformers' PI0ForConditionalGeneration with our tokenizer and normalisation.

Flow matching (Black et al. 2024): at time t = 1 the chunk is noise, at t = 0 it is the action;
x_t = t·noise + (1 − t)·action, and the network predicts the velocity noise − action.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from tokenizers import Tokenizer
from transformers import DynamicCache, PI0Config, PI0ForConditionalGeneration

from safedojo_ros.core.bounds import within_bounds
from safedojo_ros.core.config import check_ranges
from safedojo_ros.core.errors import ConfigError
from safedojo_ros.core.files import write_whole
from safedojo_ros.core.types import ACTION_SIZE, STATE_SIZE, Observation
from safedojo_ros.models.images import stack_images
from safedojo_ros.models.instructions import (
    TOKENIZER_FILE,
    check_instruction,
    read_tokenizer,
    train_tokenizer,
)
from safedojo_ros.models.normalisation import RobotScales, unit_scales
from safedojo_ros.models.places import Places
from safedojo_ros.models.weights import (
    build_and_load,
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
MAX_PATCHES = 32
"""Along a side of an image: attention grows with the fourth power of it."""
CACHE = "cache" if "cache" in _NAMES else "past_key_values"
"""What transformers calls the keys and values that it keeps; releases differ."""


@dataclass(frozen=True)
class PI0Size:
    """How large vision tower, language model and action expert are, and what they see."""

    width: int = 128
    """Of vision tower and language model, [1, 4096]."""
    expert_width: int = 128
    """Of the action expert, [1, 4096]."""
    layers: int = 4
    """Of each of the three, [1, 64]."""
    heads: int = 4
    """Attention heads of a layer, [1, 64]."""
    head_dim: int = 32
    """Width of a head, [1, 512]."""
    feed_forward: int = 4
    """Width of a layer's MLP over the layer's own, [1, 16]."""
    patch: int = 16
    """Side of an image patch, pixels, [1, 256]; divides image_size, into 32 x 32 at most."""
    vision_layers: int = 0
    """Of the vision tower, [0, 64]; 0: as many as `layers`."""
    stem: bool = False
    """Whether a patch becomes a token by convolutions of stride 2, as many as it takes (patch is a
    power of 2 then), instead of by one linear map as in the published π0: they find small things
    with far fewer updates."""
    places: bool = False
    """Whether the expert is told, in numbers, where gripper and next grasp are: see `Places`."""
    image_size: int = 64
    """Side of the images, pixels, [1, 1024]."""
    chunk_length: int = 8
    """H, steps of a chunk, [1, 64]."""
    text_tokens: int = 12
    """Room for the instruction, tokens, [1, 256]."""
    denoising_steps: int = 5
    """Euler steps of an action sample, [1, 100]; may be chosen anew after training."""
    temperature: float = 1.0
    """Of the noise that a sample starts from, [0, 10]; below 1 for less variety and more
    precision; may be chosen anew after training."""

    def __post_init__(self) -> None:
        check_ranges(self, width="[1, 4096]", expert_width="[1, 4096]", layers="[1, 64]")
        check_ranges(self, heads="[1, 64]", head_dim="[1, 512]", feed_forward="[1, 16]")
        check_ranges(self, patch="[1, 256]", image_size="[1, 1024]", chunk_length="[1, 64]")
        check_ranges(self, text_tokens="[1, 256]", denoising_steps="[1, 100]")
        check_ranges(self, temperature="[0, 10]", vision_layers="[0, 64]")
        if self.image_size % self.patch or self.image_size // self.patch > MAX_PATCHES:
            raise ConfigError(
                f"patch is {self.patch}, expected a divisor of image_size {self.image_size} that "
                f"makes at most {MAX_PATCHES} patches a side"
            )
        if self.stem and self.patch & (self.patch - 1):
            raise ConfigError(f"patch is {self.patch}, expected a power of 2 for a stem")

    def trained(self) -> "PI0Size":
        """Without what may be chosen anew after training, for comparing with another size."""
        return replace(self, temperature=0.0, denoising_steps=1)


def network_config(size: PI0Size, vocabulary: int) -> PI0Config:
    """The transformers configuration; the token after the vocabulary stands for an image patch."""

    def gemma(width: int) -> dict[str, Any]:
        return {
            "model_type": "gemma",
            "hidden_size": width,
            "num_hidden_layers": size.layers,
            "intermediate_size": size.feed_forward * width,
            "num_attention_heads": size.heads,
            "num_key_value_heads": 1,
            "head_dim": size.head_dim,
            "hidden_activation": "gelu",
        }

    vision = {
        "model_type": "siglip_vision_model",
        "hidden_size": size.width,
        "intermediate_size": size.feed_forward * size.width,
        "num_hidden_layers": size.vision_layers or size.layers,
        "num_attention_heads": size.heads,
        "patch_size": size.patch,
        "image_size": size.image_size,
        "vision_use_head": False,
        "hidden_act": "gelu",  # three times as fast on a CPU as its approximation by tanh
    }
    return PI0Config(
        vlm_config={
            "model_type": "paligemma",
            "text_config": gemma(size.width) | {"vocab_size": vocabulary + 1},
            "vision_config": vision,
            "projection_dim": size.width,
            "image_token_id": vocabulary,
        },
        dit_config=gemma(size.expert_width),
        chunk_size=size.chunk_length,
        max_state_dim=STATE_SIZE,
        max_action_dim=ACTION_SIZE,
        num_inference_steps=size.denoising_steps,
    )


class ConvolutionalStem(torch.nn.Sequential):
    """(B, 3, S, S) → (B, width, S / patch, S / patch), in place of SigLIP's linear patches."""

    def __init__(self, width: int, patch: int) -> None:
        halvings = patch.bit_length() - 1
        channels = [3, *(max(8, width >> (halvings - 1 - i)) for i in range(halvings))]
        channels[-1] = width
        layers: list[torch.nn.Module] = []
        for i in range(halvings):
            layers += [
                torch.nn.Conv2d(channels[i], channels[i + 1], 3, stride=2, padding=1),
                torch.nn.GroupNorm(1, channels[i + 1]),
                torch.nn.SiLU(),
            ]
        super().__init__(*layers, torch.nn.Conv2d(width, width, 1))

    @property
    def weight(self) -> torch.Tensor:
        """SigLIP asks it for the type that it computes in."""
        return self[-1].weight  # type: ignore[return-value]


@dataclass
class Prefix:
    """What the expert attends to: the cache of images and instruction, and their mask (B, T); and
    the places (B, 9) read off it, in centimetres, if any."""

    cache: Any
    mask: torch.Tensor
    places: torch.Tensor | None = None

    def repeated(self, times: int) -> "Prefix":
        """The same prefix for `times` chunks an observation, observation-major."""
        layers = [
            (layer.keys.repeat_interleave(times, 0), layer.values.repeat_interleave(times, 0))
            for layer in self.cache.layers
        ]
        places = None if self.places is None else self.places.repeat_interleave(times, 0)
        return Prefix(DynamicCache(layers), self.mask.repeat_interleave(times, 0), places)

    def stacked(self) -> torch.Tensor:
        """(B, layers, 2, heads, T, head_dim): keys and values in one tensor, to be kept."""
        layers = [torch.stack([layer.keys, layer.values], 1) for layer in self.cache.layers]
        return torch.stack(layers, 1)

    def features(self) -> torch.Tensor:
        """(B, F): all that the action expert sees of images and instruction."""
        return self.stacked().flatten(1)

    @staticmethod
    def from_stacked(keys_values: torch.Tensor, mask: torch.Tensor) -> "Prefix":
        """Inverse of `stacked`."""
        layers = [(layer[:, 0], layer[:, 1]) for layer in keys_values.unbind(1)]
        return Prefix(DynamicCache(layers), mask)


class Known(NamedTuple):
    """Steps that are decided already: their normalised actions (B, H, 7) and which these are (B, H)
    bool. Training-time action conditioning (arXiv 2512.05964)."""

    actions: torch.Tensor
    mask: torch.Tensor

    def put_into(self, chunk: torch.Tensor) -> torch.Tensor:
        """`chunk` (B, H, 7) with the known steps in their places."""
        return torch.where(self.mask[..., None], self.actions, chunk)


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
            network_config(size, tokenizer.get_vocab_size())
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
        step = (self.chunk_length, ACTION_SIZE)
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
            chunks[row, :, : len(actions)] = within_bounds(actions)
        return chunks

    def _known(self, committed: Sequence[np.ndarray], count: int) -> Known:
        """What is committed, for `count` chunks an observation."""
        shape = len(committed), self.chunk_length
        actions, mask = np.zeros((*shape, ACTION_SIZE), np.float32), np.zeros(shape, bool)
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
        images = stack_images(observations, self.cameras, self.image_size)
        tokens = self.tokenise([o.instruction for o in observations])
        state = torch.from_numpy(np.stack([o.state for o in observations]).astype(np.float32))
        state = self.scales.state.normalise(state)
        return images.to(self.device), tokens.to(self.device), state.to(self.device)

    def physical(self, chunks: torch.Tensor) -> np.ndarray:
        """(B, H, 7) normalised chunks → metres and radians, within bounds."""
        return within_bounds(self.scales.action.restore(chunks.cpu()).numpy())

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

    def spec(self) -> dict[str, Any]:
        """Inputs and outputs, for the manifest."""
        return robot_spec(self.cameras, self.image_size, self.chunk_length)

    def save(self, directory: Path, half: bool = False) -> None:
        """Write config.json, tokenizer.json and model.safetensors into an existing directory."""
        write_config(
            directory,
            ARCHITECTURE,
            size=asdict(self.size),
            longest_delay=self.longest_delay,
            cameras=list(self.cameras),
            instructions=list(self.instructions),
            normalisation=self.scales.to_json(),
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
            RobotScales.from_json(config.get("normalisation")),
            known_instructions(config, least=0),
            known_cameras(config),
            checkpoint_id=directory.name,
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
