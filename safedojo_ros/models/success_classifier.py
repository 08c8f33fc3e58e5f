"""The success classifier: one frame's images → P(the task is done), for each known instruction.

transformers' ResNet on single frames, the cameras stacked as channels, one logit an instruction.
A task counts as done only after several consecutive frames over the threshold, so that one lucky
frame is no success.
"""

from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from transformers import ResNetConfig, ResNetForImageClassification

from safedojo_ros.core.config import check_ranges
from safedojo_ros.core.errors import CheckpointError, ConfigError, ObservationRejected
from safedojo_ros.core.types import RESIZE
from safedojo_ros.models.weights import (
    build_and_load,
    identity,
    known_cameras,
    known_instructions,
    number,
    read_config,
    save_weights,
    section,
    write_config,
)

ARCHITECTURE = "success_resnet"
MAX_FRAMES = 1000
"""Most frames in a row, and most control steps between two of them."""


@dataclass(frozen=True)
class SuccessSize:
    """How large the ResNet is and what it sees."""

    embedding: int = 16
    """Channels of the first convolution, [1, 1024]."""
    widths: tuple[int, ...] = (16, 32, 64, 128)
    """Channels of each stage, 1 to 8 stages of at most 8192."""
    depths: tuple[int, ...] = (1, 1, 1, 1)
    """Residual blocks of each stage, as many as `widths`, at most 64 each."""
    layer: Literal["basic", "bottleneck"] = "basic"
    """Kind of the blocks."""
    image_size: int = 64
    """Side of the images, pixels, [1, 1024]."""
    stem_pooling: bool = True
    """Whether the first convolution is pooled, as in the ImageNet ResNets; without it objects of a
    few pixels stay apart."""

    def __post_init__(self) -> None:
        check_ranges(self, embedding="[1, 1024]", image_size="[1, 1024]")
        stages = len(self.widths) == len(self.depths) and 1 <= len(self.widths) <= 8
        stages = stages and min(*self.widths, *self.depths) >= 1
        if not stages or max(self.widths) > 8192 or max(self.depths) > 64:
            raise ConfigError(
                f"widths are {self.widths!s:.60} and depths {self.depths!s:.60}, expected both for "
                "each of 1 to 8 stages, at most 8192 and 64"
            )


class SuccessModel:
    """ResNet, instructions and decision rule: everything that a success checkpoint holds.

    threshold: probability over which a recorded frame shows success; consecutive: frames in a row
    that must; stride: control steps between two such frames; imagined_threshold: for frames of
    imagination, None for the same; validation: the held-out figures with which both were chosen;
    resize: how images became square, see `core.types.RESIZES`.
    """

    def __init__(
        self,
        size: SuccessSize,
        instructions: tuple[str, ...],
        cameras: tuple[str, ...] = ("agentview", "wrist"),
        threshold: float = 0.5,
        consecutive: int = 3,
        stride: int = 2,
        validation: dict[str, Any] | None = None,
        checkpoint_id: str = "",
        imagined_threshold: float | None = None,
        resize: str = RESIZE,
    ) -> None:
        self.resize = resize
        thresholds = [t for t in (threshold, imagined_threshold) if t is not None]
        within = all(0.0 < t < 1.0 for t in thresholds)
        if not instructions or consecutive < 1 or stride < 1 or not within:
            raise CheckpointError(
                f"{len(instructions)} instructions, thresholds {thresholds}, consecutive "
                f"{consecutive}, stride {stride}: expected an instruction, (0, 1), and 1 or more"
            )
        self.size, self.image_size = size, size.image_size
        self.instructions, self.cameras = tuple(instructions), tuple(cameras)
        self.threshold, self.consecutive, self.stride = threshold, consecutive, stride
        self.imagined_threshold = imagined_threshold
        self.validation: dict[str, Any] = dict(validation or {})
        self.checkpoint_id = checkpoint_id
        config: Any = ResNetConfig(
            num_channels=3 * len(cameras),
            embedding_size=size.embedding,
            hidden_sizes=list(size.widths),
            depths=list(size.depths),
            layer_type=size.layer,
        )
        config.num_labels = len(instructions)
        network: Any = ResNetForImageClassification(config)
        # channels last: a third less time on a processor
        self.network: Any = network.to(memory_format=torch.channels_last)
        if not size.stem_pooling:
            embedder: Any = self.network.resnet.embedder
            embedder.pooler = torch.nn.Identity()

    def to(self, device: torch.device | str) -> "SuccessModel":
        """Move the network."""
        self.network.to(device)
        return self

    def logits(self, images: torch.Tensor, instruction: torch.Tensor) -> torch.Tensor:
        """images (B, cameras, 3, S, S) in [-1, 1], instruction (B,) their indices → (B,)."""
        every = self.network(images.flatten(1, 2)).logits
        return every.gather(1, instruction[:, None])[:, 0]

    @torch.no_grad()
    def probability(self, images: torch.Tensor, instructions: list[str]) -> torch.Tensor:
        """(B,) P(success) of images (B, cameras, 3, S, S) in [-1, 1], on the model's device.

        Raises `ObservationRejected` for another shape or an instruction it was not trained on.
        """
        wanted = (len(instructions), len(self.cameras), 3, self.image_size, self.image_size)
        if tuple(images.shape) != wanted:
            raise ObservationRejected(
                f"images have shape {tuple(images.shape)}, expected {wanted}: "
                f"instructions, cameras {', '.join(self.cameras)}, colours, height, width"
            )
        device = next(self.network.parameters()).device
        self.network.eval()
        index = self.instruction_index(instructions).to(device)
        return torch.sigmoid(self.logits(images.to(device), index))

    def instruction_index(self, instructions: list[str]) -> torch.Tensor:
        """(B,) which logit belongs to each; raises `ObservationRejected` for an unknown one."""
        for instruction in set(instructions) - set(self.instructions):
            raise ObservationRejected(
                f"the success classifier was not trained on '{instruction}'; it knows: "
                + "; ".join(self.instructions)
            )
        return torch.tensor([self.instructions.index(i) for i in instructions], dtype=torch.int64)

    def over(self, probability: np.ndarray, imagined: bool) -> np.ndarray:
        """(...) bool: which frames show success, recorded or imagined ones."""
        other = self.imagined_threshold if imagined else None
        return np.asarray(probability >= (other or self.threshold))

    def spec(self) -> dict[str, Any]:
        """Inputs, for the manifest."""
        return {
            "cameras": list(self.cameras),
            "image_size": self.image_size,
            "instructions": list(self.instructions),
        } | ({} if self.resize == RESIZE else {"resize": self.resize})

    def save(self, directory: Path, half: bool = False) -> None:
        """Write config.json and model.safetensors into an existing directory."""
        write_config(
            directory,
            ARCHITECTURE,
            size=asdict(self.size),
            instructions=list(self.instructions),
            cameras=list(self.cameras),
            threshold=self.threshold,
            consecutive=self.consecutive,
            stride=self.stride,
            imagined_threshold=self.imagined_threshold,
            validation=self.validation,
            resize=self.resize,
        )
        save_weights(self.network, directory / "model.safetensors", half)

    @staticmethod
    def load(directory: Path) -> "SuccessModel":
        """Read a checkpoint directory; raises `CheckpointError` that says what does not fit."""
        config = read_config(directory, ARCHITECTURE)
        imagined = None
        if config.get("imagined_threshold") is not None:
            imagined = number(config, "imagined_threshold", 0.0, 1.0)
        validation = config.get("validation")
        build = partial(
            SuccessModel,
            section(SuccessSize, config, "size"),
            known_instructions(config, least=1),
            known_cameras(config),
            number(config, "threshold", 0.0, 1.0),
            number(config, "consecutive", 1, MAX_FRAMES),
            number(config, "stride", 1, MAX_FRAMES),
            validation if isinstance(validation, dict) else {},
            checkpoint_id=identity(directory),
            imagined_threshold=imagined,
            resize=str(config.get("resize", RESIZE)),
        )
        return build_and_load(build, lambda model: model.network, directory)


def sustained(over: np.ndarray, consecutive: int) -> np.ndarray:
    """(..., T) bool: the last `consecutive` frames up to here are all `over` (..., T)."""
    over = np.asarray(over, dtype=bool)
    result = over.copy()
    for back in range(1, consecutive):
        result[..., back:] &= over[..., :-back]
        result[..., :back] = False
    return result


def tiny_success(
    seed: int = 0, instructions: tuple[str, ...] = ("put the red cube on the plate",)
) -> SuccessModel:
    """A success classifier with random weights, for tests."""
    torch.manual_seed(seed)
    size = SuccessSize(embedding=8, widths=(8, 16), depths=(1, 1))
    return SuccessModel(size, instructions, checkpoint_id=f"tiny{seed}")
