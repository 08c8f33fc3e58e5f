"""The π0 policy: transformers' PI0ForConditionalGeneration with our tokenizer and normalisation.

Flow matching (Black et al. 2024): at time t = 1 the chunk is noise, at t = 0 it is the action;
x_t = t·noise + (1 − t)·action, and the network predicts the velocity noise − action.
"""

import difflib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import Lowercase
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.trainers import WordLevelTrainer
from transformers import DynamicCache, PI0Config, PI0ForConditionalGeneration

from safedojo_ros.core.errors import CheckpointError, ObservationRejected
from safedojo_ros.core.types import (
    ACTION_SIZE,
    MAX_DELTA_POSITION,
    MAX_DELTA_ROTATION,
    STATE_SIZE,
    Observation,
)
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

ARCHITECTURE = "pi0"
PAD, UNKNOWN = "[PAD]", "[UNK]"
MAX_INSTRUCTION_LENGTH = 200
"""Characters; anything longer is refused before it reaches the tokenizer."""


@dataclass(frozen=True)
class PI0Size:
    """How large the π0 network is; the presets hold the values of `tiny` and `small`.

    width: of vision tower, language model and action expert; layers: of each of the three;
    patch: picture patch, pixels; text_tokens: room for the instruction;
    denoising_steps: Euler steps of an action sample; temperature: scale of the noise that `act`
    starts from, below 1 for less variety and more precision.
    """

    width: int = 128
    expert_width: int = 128
    layers: int = 4
    heads: int = 4
    head_dim: int = 32
    feed_forward: int = 4
    patch: int = 16
    image_size: int = 64
    chunk_length: int = 8
    text_tokens: int = 12
    denoising_steps: int = 5
    temperature: float = 1.0


def within_limits(actions: np.ndarray) -> np.ndarray:
    """Clip actions (..., 7) to the action space; the gate rejects whatever leaves it."""
    bound = np.array([MAX_DELTA_POSITION] * 3 + [MAX_DELTA_ROTATION] * 3 + [1.0])
    return np.clip(actions.astype(np.float64), -bound, bound)


def train_tokenizer(instructions: Sequence[str]) -> Tokenizer:
    """A word-level tokenizer of the words in `instructions`."""
    tokenizer = Tokenizer(WordLevel(unk_token=UNKNOWN))
    tokenizer.normalizer = Lowercase()
    tokenizer.pre_tokenizer = Whitespace()
    trainer = WordLevelTrainer(special_tokens=[PAD, UNKNOWN], show_progress=False)
    tokenizer.train_from_iterator(sorted(set(instructions)), trainer)
    return tokenizer


def network_config(size: PI0Size, vocabulary: int) -> PI0Config:
    """The transformers configuration; the token after the vocabulary stands for a picture patch."""
    return PI0Config(
        vlm_config={
            "model_type": "paligemma",
            "text_config": {
                "model_type": "gemma",
                "hidden_size": size.width,
                "num_hidden_layers": size.layers,
                "intermediate_size": size.feed_forward * size.width,
                "num_attention_heads": size.heads,
                "num_key_value_heads": 1,
                "head_dim": size.head_dim,
                "vocab_size": vocabulary + 1,
            },
            "vision_config": {
                "model_type": "siglip_vision_model",
                "hidden_size": size.width,
                "intermediate_size": size.feed_forward * size.width,
                "num_hidden_layers": size.layers,
                "num_attention_heads": size.heads,
                "patch_size": size.patch,
                "image_size": size.image_size,
                "vision_use_head": False,
            },
            "projection_dim": size.width,
            "image_token_id": vocabulary,
        },
        dit_config={
            "model_type": "gemma",
            "hidden_size": size.expert_width,
            "num_hidden_layers": size.layers,
            "intermediate_size": size.feed_forward * size.expert_width,
            "num_attention_heads": size.heads,
            "num_key_value_heads": 1,
            "head_dim": size.head_dim,
        },
        chunk_size=size.chunk_length,
        max_state_dim=STATE_SIZE,
        max_action_dim=ACTION_SIZE,
        num_inference_steps=size.denoising_steps,
    )


@dataclass
class Prefix:
    """What the expert attends to: the cache of pictures and instruction, and their mask (B, T)."""

    cache: Any
    mask: torch.Tensor

    def repeated(self, times: int) -> "Prefix":
        """The same prefix for `times` chunks an observation, observation-major."""
        self.cache.batch_repeat_interleave(times)
        return Prefix(self.cache, self.mask.repeat_interleave(times, 0))

    def stacked(self) -> torch.Tensor:
        """(B, layers, 2, heads, T, head_dim): keys and values in one tensor, to be kept."""
        layers = [torch.stack([layer.keys, layer.values], 1) for layer in self.cache.layers]
        return torch.stack(layers, 1)

    @staticmethod
    def from_stacked(keys_values: torch.Tensor, mask: torch.Tensor) -> "Prefix":
        """Inverse of `stacked`."""
        layers = [(layer[:, 0], layer[:, 1]) for layer in keys_values.unbind(1)]
        return Prefix(DynamicCache(layers), mask)


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
    ) -> None:
        self.size, self.tokenizer = size, tokenizer
        self.scales = scales
        self.instructions = tuple(sorted(set(instructions)))
        self.cameras, self.checkpoint_id = tuple(cameras), checkpoint_id
        self.chunk_length, self.image_size = size.chunk_length, size.image_size
        self.network: Any = PI0ForConditionalGeneration(
            network_config(size, tokenizer.get_vocab_size())
        )
        self.device = torch.device("cpu")

    def to(self, device: torch.device | str) -> "PI0Policy":
        """Move the network."""
        self.device = torch.device(device)
        self.network.to(self.device)
        return self

    # ---------------------------------------------------------------- acting

    @torch.no_grad()
    def act(
        self, observations: list[Observation], generators: list[torch.Generator] | None = None
    ) -> np.ndarray:
        """(B, H, 7) actions; see `models.policy.Policy.act`."""
        pictures, tokens, state = self.inputs(observations)
        shape = (self.chunk_length, ACTION_SIZE)
        if generators is None:
            noise = torch.randn(len(observations), *shape)
        else:
            noise = torch.stack([torch.randn(shape, generator=g) for g in generators])
        self.network.eval()
        noise = self.size.temperature * noise.to(self.device)
        return self.physical(self.denoise(self.prefix(pictures, tokens), state, noise))

    def inputs(
        self, observations: list[Observation]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Pictures (B, cameras, 3, S, S), tokens (B, L) and normalised state (B, 8), on the device.

        Raises `ObservationRejected`.
        """
        pictures = stack_pictures(observations, self.cameras, self.image_size)
        tokens = self.tokenise([o.instruction for o in observations])
        state = torch.from_numpy(np.stack([o.state for o in observations]).astype(np.float32))
        state = self.scales.state.normalise(state)
        return pictures.to(self.device), tokens.to(self.device), state.to(self.device)

    def physical(self, chunks: torch.Tensor) -> np.ndarray:
        """(B, H, 7) normalised chunks → metres and radians, within limits."""
        return within_limits(self.scales.action.restore(chunks.cpu()).numpy())

    def tokenise(self, instructions: Sequence[str]) -> torch.Tensor:
        """(B, text_tokens) int64; raises `ObservationRejected` for a sentence it was not taught."""
        rows = []
        for text in instructions:
            self.check_instruction(text)
            row = self.tokenizer.encode(text).ids[: self.size.text_tokens]
            rows.append(row + [0] * (self.size.text_tokens - len(row)))
        return torch.tensor(rows, dtype=torch.int64)

    def check_instruction(self, text: str) -> None:
        """Raise `ObservationRejected` unless the policy was trained on this sentence."""
        if not text.strip():
            raise ObservationRejected("the instruction is empty; publish a sentence")
        if len(text) > MAX_INSTRUCTION_LENGTH:
            raise ObservationRejected(
                f"the instruction has {len(text)} characters, at most {MAX_INSTRUCTION_LENGTH}"
            )
        known = {sentence.lower() for sentence in self.instructions}
        if known and text.strip().lower() not in known:
            near = difflib.get_close_matches(text, self.instructions, n=1, cutoff=0.0)
            raise ObservationRejected(
                f"the policy was not trained on '{text[:60]}'; the nearest it knows is '{near[0]}'"
            )

    # ---------------------------------------------------------------- network

    def prefix(self, pictures: torch.Tensor, tokens: torch.Tensor) -> Prefix:
        """Run pictures (B, cameras, 3, S, S) and tokens (B, L) through the language model once."""
        model = self.network.model
        count, cameras = pictures.shape[:2]
        patches = (self.image_size // self.size.patch) ** 2
        image_token = self.tokenizer.get_vocab_size()  # as in `network_config`
        images = torch.full((count, cameras * patches), image_token, device=tokens.device)
        input_ids = torch.cat([images, tokens], dim=1)
        mask = torch.cat([torch.ones_like(images), (tokens != 0).long()], dim=1)
        seen = torch.ones(count, cameras, dtype=torch.bool, device=tokens.device)
        embeddings = model.embed_prefix(input_ids, pictures, seen)
        cache = model.vlm(
            inputs_embeds=embeddings,
            attention_mask=mask,
            position_ids=mask.cumsum(-1) - 1,
            token_type_ids=torch.zeros_like(mask),
            use_cache=True,
        ).past_key_values
        return Prefix(cache, mask)

    def velocity(
        self, prefix: Prefix, state: torch.Tensor, chunk: torch.Tensor, time: torch.Tensor
    ) -> torch.Tensor:
        """(B, H, 7) velocity of the noisy normalised `chunk` at `time` (B,)."""
        length = prefix.cache.get_seq_length()
        output = self.network(
            state=state,
            noise=chunk,
            timestep=time,
            attention_mask=prefix.mask,
            past_key_values=prefix.cache,
        )
        prefix.cache.crop(length - prefix.cache.get_seq_length())
        return output.logits

    def denoise(self, prefix: Prefix, state: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """(B, H, 7) normalised actions from `noise`, by Euler steps from t = 1 to 0."""
        steps = self.size.denoising_steps
        chunk = noise
        for step in range(steps):
            time = torch.full((len(chunk),), 1.0 - step / steps, device=chunk.device)
            chunk = chunk - self.velocity(prefix, state, chunk, time) / steps
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
            cameras=list(self.cameras),
            instructions=list(self.instructions),
            normalisation=self.scales.to_json(),
        )
        (directory / "tokenizer.json").write_text(self.tokenizer.to_str(pretty=True) + "\n")
        save_weights(self.network, directory / "model.safetensors", half)

    @staticmethod
    def load(directory: Path) -> "PI0Policy":
        """Read a checkpoint directory; raises `CheckpointError` that says what does not fit."""
        config = read_config(directory, ARCHITECTURE)
        tokenizer_path = directory / "tokenizer.json"
        if not tokenizer_path.is_file():
            raise CheckpointError(f"tokenizer.json is missing in {directory.name}")
        with fitting(directory):
            policy = PI0Policy(
                PI0Size(**config["size"]),
                Tokenizer.from_str(tokenizer_path.read_text()),
                RobotScales.from_json(config["normalisation"]),
                config["instructions"],
                tuple(config["cameras"]),
                checkpoint_id=directory.name,
            )
        load_weights(policy.network, directory / "model.safetensors")
        policy.network.eval()
        return policy


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
