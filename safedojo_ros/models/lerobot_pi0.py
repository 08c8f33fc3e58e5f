"""π0 as LeRobot saves it, such as lerobot/pi0_base, in transformers' class.

A directory with LeRobot's `config.json` (type pi0), `model.safetensors`, the statistics that its
processors saved, and `tokenizer.json` of google/paligemma-3b-pt-224, which LeRobot does not save.
State and actions have sizes of their own, and are padded to the network's.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isqrt
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from tokenizers import Tokenizer
from transformers import PI0Config, PI0ForConditionalGeneration

from safedojo_ros.core.errors import CheckpointError, ObservationRejected
from safedojo_ros.core.strict_json import read_json

WEIGHTS, TOKENIZER = "model.safetensors", "tokenizer.json"
STATISTICS = "policy_preprocessor_step_*_normalizer_processor.safetensors"
STATE, ACTION, IMAGES = "observation.state", "action", "observation.images."
LANGUAGE = "paligemma_with_expert.paligemma.model.language_model."
VISION = "paligemma_with_expert.paligemma.model.vision_tower.vision_model."
EXPERT = "paligemma_with_expert.gemma_expert.model."
VOCABULARY = (f"{LANGUAGE}embed_tokens.weight", "paligemma_with_expert.paligemma.lm_head.weight")
VISION_HEADS = 16
"""Of SigLIP So400m; the shapes of its weights do not tell."""
BOS, PADDING = "<bos>", 0
EPSILON = 1e-8
"""LeRobot adds it to a standard deviation."""

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Saved:
    """What LeRobot's config.json says. Raises `CheckpointError` for what cannot be run here."""

    state_size: int
    action_size: int
    cameras: tuple[str, ...]
    """Names of its image features, in order."""
    chunk_size: int
    max_state: int
    max_action: int
    text_tokens: int
    denoising_steps: int
    image_size: int
    normalised: dict[str, bool]
    """{"STATE", "ACTION"}: by mean and standard deviation, or not at all."""

    @staticmethod
    def read(directory: Path) -> "Saved":
        """Of a directory."""
        config = read_json(directory / "config.json")
        if not isinstance(config, dict) or config.get("type") != "pi0":
            kind = config.get("type") if isinstance(config, dict) else None
            raise CheckpointError(f"{directory} holds {kind!r:.40}, expected LeRobot's type 'pi0'")
        if config.get("use_relative_actions"):
            raise CheckpointError(f"{directory} has relative actions, which are not known here")
        try:
            inputs, outputs = config["input_features"], config["output_features"]
            modes = {part: config["normalization_mapping"][part] for part in ("STATE", "ACTION")}
            tall, wide = config["image_resolution"]
            saved = Saved(
                state_size=int(inputs[STATE]["shape"][0]),
                action_size=int(outputs[ACTION]["shape"][0]),
                cameras=tuple(n.removeprefix(IMAGES) for n in inputs if n.startswith(IMAGES)),
                chunk_size=int(config["chunk_size"]),
                max_state=int(config["max_state_dim"]),
                max_action=int(config["max_action_dim"]),
                text_tokens=int(config["tokenizer_max_length"]),
                denoising_steps=int(config["num_inference_steps"]),
                image_size=int(tall),
                normalised={part: mode == "MEAN_STD" for part, mode in modes.items()},
            )
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise CheckpointError(f"{directory}/config.json lacks {error}") from None
        if tall != wide or not saved.cameras or set(modes.values()) - {"MEAN_STD", "IDENTITY"}:
            raise CheckpointError(
                f"{directory} has images of {wide}x{tall}, cameras {saved.cameras}, normalisation "
                f"{modes}; expected squares, at least one camera, MEAN_STD or IDENTITY"
            )
        if saved.state_size > saved.max_state or saved.action_size > saved.max_action:
            raise CheckpointError(
                f"{directory}: state or action is larger than what it is padded to"
            )
        return saved


class LeRobotPI0:
    """A network with its tokenizer and statistics.

    cameras, state_size, action_size, chunk_length, image_size: what it takes and gives; units are
    those of the data set that it was trained on.
    """

    def __init__(
        self,
        saved: Saved,
        network: PI0ForConditionalGeneration,
        tokenizer: Tokenizer,
        statistics: Mapping[str, torch.Tensor],
    ) -> None:
        self.saved, self.tokenizer, self.network = saved, tokenizer, network.eval()
        self.cameras, self.image_size = saved.cameras, saved.image_size
        self.state_size, self.action_size = saved.state_size, saved.action_size
        self.chunk_length = saved.chunk_size
        self.statistics = {
            name: (statistics[f"{name}.mean"].float(), statistics[f"{name}.std"].float() + EPSILON)
            if saved.normalised[part]
            else (torch.zeros(1), torch.ones(1))
            for name, part in ((STATE, "STATE"), (ACTION, "ACTION"))
        }

    @torch.no_grad()
    def chunks(
        self,
        images: torch.Tensor,
        states: np.ndarray,
        instructions: Sequence[str],
        generator: torch.Generator | None = None,
    ) -> np.ndarray:
        """(B, H, action_size) of images (B, C, 3, S, S) in [−1, 1], of the first C cameras, states
        (B, state_size) and B instructions. Raises `ObservationRejected` for other shapes."""
        count, cameras = images.shape[:2]
        side = self.image_size
        if not 1 <= cameras <= len(self.cameras) or images.shape[2:] != (3, side, side):
            raise ObservationRejected(
                f"{cameras} images of {images.shape[-1]}x{images.shape[-2]}, expected 1 to "
                f"{len(self.cameras)} of {side}x{side}"
            )
        if states.shape != (count, self.state_size):
            raise ObservationRejected(
                f"a state of {states.shape[-1]} numbers, expected {self.state_size}"
            )
        mean, deviation = self.statistics[STATE]
        state = (torch.from_numpy(np.asarray(states, np.float32)) - mean) / deviation
        state = torch.nn.functional.pad(state, (0, self.saved.max_state - self.state_size))
        tokens, seen = self.tokenise(instructions, cameras)
        noise = torch.randn(count, self.chunk_length, self.saved.max_action, generator=generator)
        device, dtype = self.network.device, self.network.dtype
        made = self.network.sample_actions(
            state=state.to(device, dtype),
            input_ids=tokens.to(device),
            pixel_values=images.to(device, dtype),
            noise=noise.to(device, dtype),
            attention_mask=seen.to(device),
            pixel_attention_mask=torch.ones(count, cameras, dtype=torch.bool, device=device),
            num_steps=self.saved.denoising_steps,
        )
        mean, deviation = self.statistics[ACTION]
        actions = made[..., : self.action_size].float().cpu() * deviation + mean
        return cast(np.ndarray, actions.numpy().astype(np.float64))

    def tokenise(
        self, instructions: Sequence[str], cameras: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens (B, L) and their mask: image patches, <bos>, the instruction, a new line."""
        vision = self.network.config.vlm_config.vision_config
        patches = cameras * (vision.image_size // vision.patch_size) ** 2
        image, first = (
            self.network.config.vlm_config.image_token_id,
            self.tokenizer.token_to_id(BOS),
        )
        rows, masks = [], []
        for text in instructions:
            line = text if text.endswith("\n") else f"{text}\n"
            words = [first, *self.tokenizer.encode(line, add_special_tokens=False).ids]
            words = words[: self.saved.text_tokens]
            empty = self.saved.text_tokens - len(words)
            rows.append([image] * patches + words + [PADDING] * empty)
            masks.append([1] * (patches + len(words)) + [0] * empty)
        return torch.tensor(rows), torch.tensor(masks)

    @staticmethod
    def load(directory: Path, dtype: torch.dtype = torch.float32) -> "LeRobotPI0":
        """Read a directory; raises `CheckpointError` that says what is missing or does not fit.

        Every weight has its place and every place its weight, or the error lists them.
        """
        saved = Saved.read(directory)
        config = network_config(_shapes(directory / WEIGHTS), saved)
        loaded: Any = PI0ForConditionalGeneration.from_pretrained(
            directory, config=config, output_loading_info=True, dtype=dtype, local_files_only=True
        )
        network, info = loaded
        for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
            names = sorted(str(name) for name in info.get(kind, ()))
            if names:
                some = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if names[8:] else "")
                raise CheckpointError(f"{directory}/{WEIGHTS}: {kind.replace('_', ' ')} {some}")
        return LeRobotPI0(saved, network, _tokenizer(directory), _statistics(directory, saved))


def network_config(shapes: Shapes, saved: Saved) -> PI0Config:
    """The configuration that weights of these shapes were made with.

    Raises `CheckpointError` for a missing weight, or towers that cannot attend to each other.
    """
    language, expert = _gemma(shapes, LANGUAGE), _gemma(shapes, EXPERT)
    for key in ("num_hidden_layers", "head_dim"):
        if language[key] != expert[key]:
            raise CheckpointError(
                f"the language model has {key} {language[key]}, the action expert {expert[key]}"
            )
    rows = [shapes[name][0] for name in VOCABULARY if name in shapes]
    if not rows:
        raise CheckpointError(f"the weights lack {' and '.join(VOCABULARY)}")
    width, _, patch, _ = _shape(shapes, f"{VISION}embeddings.patch_embedding.weight")
    patches = _shape(shapes, f"{VISION}embeddings.position_embedding.weight")[0]
    if isqrt(patches) * patch != saved.image_size or width % VISION_HEADS:
        raise CheckpointError(
            f"the vision tower has a width of {width} and sees {isqrt(patches) * patch} pixels, "
            f"expected a multiple of {VISION_HEADS} and the {saved.image_size} of config.json"
        )
    return PI0Config(
        vlm_config={
            "model_type": "paligemma",
            "text_config": language | {"vocab_size": rows[0]},
            "vision_config": {
                "model_type": "siglip_vision_model",
                "hidden_size": width,
                "intermediate_size": _shape(shapes, f"{VISION}encoder.layers.0.mlp.fc1.weight")[0],
                "num_hidden_layers": _layers(shapes, f"{VISION}encoder."),
                "num_attention_heads": VISION_HEADS,
                "patch_size": patch,
                "image_size": saved.image_size,
                "vision_use_head": False,
            },
            "projection_dim": language["hidden_size"],
            "image_token_id": rows[0],
        },
        dit_config=expert,
        chunk_size=saved.chunk_size,
        max_state_dim=saved.max_state,
        max_action_dim=saved.max_action,
        num_inference_steps=saved.denoising_steps,
    )


def _gemma(shapes: Shapes, prefix: str) -> dict[str, Any]:
    layer = f"{prefix}layers.0."
    queries, width = _shape(shapes, f"{layer}self_attn.q_proj.weight")
    keys = _shape(shapes, f"{layer}self_attn.k_proj.weight")[0]  # one head, as in every Gemma of π0
    return {
        "model_type": "gemma",
        "hidden_size": width,
        "num_hidden_layers": _layers(shapes, prefix),
        "intermediate_size": _shape(shapes, f"{layer}mlp.gate_proj.weight")[0],
        "num_attention_heads": queries // keys,
        "num_key_value_heads": 1,
        "head_dim": keys,
    }


def _layers(shapes: Shapes, prefix: str) -> int:
    pattern = re.compile(re.escape(prefix) + r"layers\.(\d+)\.")
    return 1 + max((int(m[1]) for name in shapes if (m := pattern.match(name))), default=-1)


def _shape(shapes: Shapes, name: str) -> tuple[int, ...]:
    if name not in shapes:
        raise CheckpointError(f"the weights lack {name}: it is not π0 as LeRobot saves it")
    return shapes[name]


def _shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """{name, without LeRobot's "model.": shape} of a safetensors file."""
    try:
        with safe_open(path, framework="pt") as file:
            return {
                name.removeprefix("model."): tuple(file.get_slice(name).get_shape())
                for name in file.keys()  # noqa: SIM118 - it is no mapping
            }
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"cannot read {path}: {error}") from None


def _tokenizer(directory: Path) -> Tokenizer:
    path = directory / TOKENIZER
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library has no class of its own for them
        raise CheckpointError(
            f"cannot read {path}: {error}; LeRobot does not save it: copy it there from "
            "google/paligemma-3b-pt-224"
        ) from None
    if tokenizer.token_to_id(BOS) is None:
        raise CheckpointError(f"{path} knows no {BOS}: it is another model's")
    return tokenizer


def _statistics(directory: Path, saved: Saved) -> dict[str, torch.Tensor]:
    """{feature.statistic: values} that LeRobot's processor saved."""
    found: dict[str, torch.Tensor] = {}
    for path in sorted(directory.glob(STATISTICS)):
        with safe_open(path, framework="pt") as file:
            found |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    for name, part, size in (
        (STATE, "STATE", saved.state_size),
        (ACTION, "ACTION", saved.action_size),
    ):
        for kind in ("mean", "std") if saved.normalised[part] else ():
            values = found.get(f"{name}.{kind}")
            if values is None or values.shape != (size,) or not torch.isfinite(values).all():
                raise CheckpointError(
                    f"{directory}/{STATISTICS} has no {name}.{kind} of {size} finite numbers; "
                    "a checkpoint that was not fine-tuned to a robot has none"
                )
    return found
