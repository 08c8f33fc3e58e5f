"""What both policy families share: backbone, tokenizer, sentences, normalisation, files."""

import difflib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Generic, Self, TypeVar

import numpy as np
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import Lowercase
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.trainers import WordLevelTrainer

from safedojo_ros.core.bounds import within_bounds
from safedojo_ros.core.errors import CheckpointError, ObservationRejected
from safedojo_ros.core.types import Observation
from safedojo_ros.models.images import stack_pictures
from safedojo_ros.models.normalisation import RobotScales
from safedojo_ros.models.weights import (
    fitting,
    load_weights,
    read_config,
    robot_spec,
    save_weights,
    write_config,
)

PAD, UNKNOWN = "[PAD]", "[UNK]"
MAX_INSTRUCTION_LENGTH = 200
"""Characters; anything longer is refused before it reaches the tokenizer."""


@dataclass(frozen=True)
class BackboneSize:
    """How large vision tower and language model are, and what they see.

    width: of both; layers: of each; patch: picture patch, pixels; text_tokens: room for the
    instruction; temperature: of the noise that `act` draws, below 1 for less variety and more
    precision.
    """

    width: int = 128
    layers: int = 4
    heads: int = 4
    head_dim: int = 32
    feed_forward: int = 4
    patch: int = 16
    image_size: int = 64
    chunk_length: int = 8
    text_tokens: int = 12
    temperature: float = 1.0

    def trained(self) -> Self:
        """Without what may be chosen anew after training, for comparing with another size."""
        return replace(self, temperature=0.0)


SizeT = TypeVar("SizeT", bound=BackboneSize)


def train_tokenizer(instructions: Sequence[str]) -> Tokenizer:
    """A word-level tokenizer of the words in `instructions`."""
    tokenizer = Tokenizer(WordLevel(unk_token=UNKNOWN))
    tokenizer.normalizer = Lowercase()
    tokenizer.pre_tokenizer = Whitespace()
    trainer = WordLevelTrainer(special_tokens=[PAD, UNKNOWN], show_progress=False)
    tokenizer.train_from_iterator(sorted(set(instructions)), trainer)
    return tokenizer


def backbone_config(size: BackboneSize, vocabulary: int) -> dict[str, Any]:
    """transformers' PaliGemma; the token after the vocabulary stands for a picture patch."""
    return {
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
    }


class NetworkPolicy(ABC, Generic[SizeT]):
    """A network, its tokenizer and its normalisation: everything that a checkpoint holds.

    architecture: of config.json; size_class: of its "size".
    """

    architecture: ClassVar[str]
    size_class: ClassVar[type[Any]]

    def __init__(
        self,
        size: SizeT,
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
        self.network: Any = self._new_network()
        self.device = torch.device("cpu")

    @abstractmethod
    def _new_network(self) -> torch.nn.Module:
        """With random weights, of the policy's size and vocabulary."""

    @abstractmethod
    def act(
        self, observations: list[Observation], generators: list[torch.Generator] | None = None
    ) -> np.ndarray:
        """(B, H, 7) actions; see `models.policy.Policy.act`."""

    def to(self, device: torch.device | str) -> Self:
        """Move the network."""
        self.device = torch.device(device)
        self.network.to(self.device)
        return self

    def copied(self, weights: Mapping[str, torch.Tensor], size: SizeT) -> Self:
        """The same policy with other weights, on the same device, ready to act."""
        policy = type(self)(size, self.tokenizer, self.scales, self.instructions, self.cameras)
        policy.network.load_state_dict(weights)
        policy.network.eval()
        return policy.to(self.device)

    # ---------------------------------------------------------------- inputs and outputs

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
        return within_bounds(self.scales.action.restore(chunks.cpu()).numpy())

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

    # ---------------------------------------------------------------- files

    def spec(self) -> dict[str, Any]:
        """Inputs and outputs, for the manifest."""
        return robot_spec(self.cameras, self.image_size, self.chunk_length)

    def save(self, directory: Path, half: bool = False) -> None:
        """Write config.json, tokenizer.json and model.safetensors into an existing directory."""
        write_config(
            directory,
            self.architecture,
            size=asdict(self.size),
            cameras=list(self.cameras),
            instructions=list(self.instructions),
            normalisation=self.scales.to_json(),
        )
        (directory / "tokenizer.json").write_text(self.tokenizer.to_str(pretty=True) + "\n")
        save_weights(self.network, directory / "model.safetensors", half)

    @classmethod
    def load(cls, directory: Path) -> Self:
        """Read a checkpoint directory; raises `CheckpointError` that says what does not fit."""
        config = read_config(directory, cls.architecture)
        tokenizer_path = directory / "tokenizer.json"
        if not tokenizer_path.is_file():
            raise CheckpointError(f"tokenizer.json is missing in {directory.name}")
        with fitting(directory):
            policy = cls(
                cls.size_class(**config["size"]),
                Tokenizer.from_str(tokenizer_path.read_text()),
                RobotScales.from_json(config["normalisation"]),
                config["instructions"],
                tuple(config["cameras"]),
                checkpoint_id=directory.name,
            )
        load_weights(policy.network, directory / "model.safetensors")
        policy.network.eval()
        return policy
