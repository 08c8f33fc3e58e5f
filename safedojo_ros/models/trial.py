"""A model acts once before anybody relies on it: loaded from its directory, tried, and dropped."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from safedojo_ros.core.bounds import ACTION_BOUND
from safedojo_ros.core.errors import CheckpointError, SafeDojoError
from safedojo_ros.core.types import Observation
from safedojo_ros.models.loading import (
    load_policy,
    load_safety,
    load_success,
    load_world_model,
)
from safedojo_ros.models.weights import one_line

if TYPE_CHECKING:
    from safedojo_ros.models.normalisation import RobotScales
    from safedojo_ros.models.pi0_policy import PI0Policy
    from safedojo_ros.models.safety_head import SafetyModel
    from safedojo_ros.models.success_classifier import SuccessModel
    from safedojo_ros.models.world_model import WorldModel

STRIDE = 0.02
"""Length of the trial's steps in each direction, m."""
LEAST_SPREAD = 1e-6
"""A safety head whose answers differ by less tells nothing apart."""


def act_once(kind: str, directory: Path, spec: Mapping[str, Any]) -> None:
    """Load a checkpoint directory and let its model act on a made-up scene.

    spec: what the manifest says of its inputs and outputs. Raises `CheckpointError` unless the
    model has that spec and answers with finite numbers of the right shape and range.
    """
    load, act = _TRIALS[kind]
    try:
        with torch.random.fork_rng(devices=[]):  # a training that publishes goes on as without
            model = load(directory)
        for name, value in model.spec().items():
            if spec.get(name) != value:
                raise CheckpointError(
                    f"its spec says {name} {spec.get(name)!r:.60}, the model has {value!r:.60}"
                )
        with torch.no_grad():
            act(model)
    except CheckpointError:
        raise
    except SafeDojoError as error:
        raise CheckpointError(str(error)) from None
    except Exception as error:  # whatever a broken network provokes
        fault = f"{type(error).__name__}: {one_line(error)}"
        raise CheckpointError(f"it cannot act: {fault}") from None


def _scene(model: Any, scales: "RobotScales", instruction: str, seed: int) -> Observation:
    """Images of noise, and the robot in its mean state."""
    rng, side = np.random.default_rng(seed), model.image_size
    images = {name: rng.integers(0, 256, (side, side, 3), np.uint8) for name in model.cameras}
    return Observation(images, scales.state.mean.numpy().astype(np.float64), instruction)


def _policy(model: "PI0Policy") -> None:
    sentence = (*model.instructions, "wait")[0]
    seen = _scene(model, model.scales, sentence, 0)
    actions = model.act([seen], [torch.Generator().manual_seed(0)])[0]
    _check("actions", actions, (model.chunk_length, model.scales.action_size))
    beyond = model.scales.moves_gripper and np.any(np.abs(actions) > ACTION_BOUND)
    if len(actions) < 1 or beyond:
        raise CheckpointError("its actions are none, or beyond the bounds of an action")


def _safety(model: "SafetyModel") -> None:
    model.seen = None  # noise is strange to every head
    chunks = np.zeros((7, model.chunk_length, model.scales.action_size))
    for number in range(1, len(chunks)):
        column = (number - 1) // 2 % chunks.shape[2]
        chunks[number, :, column] = STRIDE * (-1) ** number
    scenes = [_scene(model, model.scales, "wait", seed) for seed in range(2)]
    costs = model.step_cost(scenes, np.stack([chunks] * 2))
    _check("costs", costs, (2, *chunks.shape[:2]), 0.0, 1.0)
    if np.ptp(costs) < LEAST_SPREAD:
        raise CheckpointError(f"it answers {costs.flat[0]:.3g} whatever the chunk")


def _world_model(model: "WorldModel") -> None:
    size = model.size
    side = model.autoencoder.size.image_size
    generator = torch.Generator().manual_seed(0)
    images = torch.rand((1, size.context, len(model.cameras), 3, side, side), generator=generator)
    context = model.encode(2.0 * images - 1.0)
    noise = torch.randn((1, size.future, *context.shape[2:]), generator=generator)
    scales = model.scales
    chunk = torch.zeros(1, size.chunk_length, scales.action_size)
    frames, states = model.imagine(context, torch.zeros(1, scales.state_size), chunk, noise)
    _check("future frames", frames.numpy(), tuple(noise.shape))
    _check("future states", states.numpy(), (1, size.chunk_length, scales.state_size))
    _check("images", model.decode(frames[:, :1]).numpy(), (1, 1, *images.shape[2:]))


def _success(model: "SuccessModel") -> None:
    side, count = model.image_size, min(4, len(model.instructions))
    generator = torch.Generator().manual_seed(0)
    images = torch.rand((count, len(model.cameras), 3, side, side), generator=generator)
    answers = model.probability(2.0 * images - 1.0, list(model.instructions[:count]))
    _check("answers", answers.numpy(), (count,), 0.0, 1.0)


def _check(
    what: str,
    values: np.ndarray,
    shape: tuple[int, ...],
    low: float = -np.inf,
    high: float = np.inf,
) -> None:
    if values.shape != shape:
        raise CheckpointError(f"its {what} have shape {values.shape}, expected {shape}")
    if not np.all(np.isfinite(values)):
        raise CheckpointError(f"its {what} are not finite")
    if np.any(values < low) or np.any(values > high):
        raise CheckpointError(f"its {what} leave [{low:g}, {high:g}]")


_TRIALS: dict[str, tuple[Callable[[Path], Any], Callable[[Any], None]]] = {
    "policy": (load_policy, _policy),
    "safety": (load_safety, _safety),
    "world_model": (load_world_model, _world_model),
    "success": (load_success, _success),
}
