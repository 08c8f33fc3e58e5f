"""Seconds that an update of each model takes, change by change, at a preset's sizes.

    python benchmarks/updates.py [--models world-model,policy] [--updates 20] [--json updates.json]

Every training is built as its command builds it, on a few episodes that are recorded first. All
rows of a model begin with the same weights and take the same batches, in turns, so that whatever
else the machine does slows them alike; the loss is the mean over these updates. The floor is what
the products of matrices and the convolutions of an update take by themselves. The first update
compiles, a minute or more where torch's cache has nothing of it, and is no part of the median.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from diffusers import WanTransformer3DModel
from torch.utils._python_dispatch import TorchDispatchMode

from safedojo_ros.learning import (
    autoencoder,
    compiling,
    imitation,
    safety_head,
    success,
    world_model,
)
from safedojo_ros.learning.compiling import LEAST_STEPS, compiled
from safedojo_ros.learning.data.contacts import imagined_contacts, recorded_contacts
from safedojo_ros.learning.data.demonstrations import Demonstrations
from safedojo_ros.learning.data.latent_episodes import LatentEpisodes
from safedojo_ros.learning.data.success_frames import imagined_frames, recorded_frames
from safedojo_ros.learning.fit import FitConfig, Loss
from safedojo_ros.models.autoencoder import FrameAutoencoder
from safedojo_ros.models.frames_transformer import TRAINING_TIMESTEPS
from safedojo_ros.models.threads import multiplies_bfloat16, use_processor
from safedojo_ros.pipeline.collect import Collection, collect
from safedojo_ros.pipeline.players import Players
from safedojo_ros.pipeline.recipe import Recipe, read_recipe

DTYPES = {False: "float32", True: "bfloat16"}
PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", "convolution", "convolution_backward")


@dataclass
class Training:
    """What a training gave to `fit`."""

    network: torch.nn.Module
    loss: Loss
    config: FitConfig
    parameters: list[torch.nn.Parameter]
    compile: list[torch.nn.Module]


@dataclass
class Row:
    """One way to compute an update.

    meanwhile: what holds while it is computed; products: only these are timed.
    """

    name: str
    training: Training
    fused: bool = True
    meanwhile: Callable[[], Any] = nullcontext
    products: bool = False
    first: float = 0.0
    seconds: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        config = self.training.config
        self.optimizer = torch.optim.AdamW(
            self.training.parameters,
            config.learning_rate / 10,
            weight_decay=config.weight_decay,
            fused=self.fused,
        )

    def timed(self, step: int) -> float:
        """Seconds of an update; keeps its loss."""
        with ProductTimes() if self.products else nullcontext() as times:
            begun = time.perf_counter()
            self.losses.append(self.update(step))
            seconds = time.perf_counter() - begun
        return times.seconds if times else seconds

    def update(self, step: int) -> float:
        """As `fit` does it; returns the loss."""
        training = self.training
        torch.manual_seed(step)
        with self.meanwhile():
            training.network.train()
            loss = training.loss(step, torch.Generator().manual_seed(step))["loss"]
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(training.parameters, training.config.gradient_clip)
            self.optimizer.step()
        return loss.item()


class ProductTimes(TorchDispatchMode):
    """Adds up the seconds of products of matrices and of convolutions."""

    seconds = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        begun = time.perf_counter()
        result = func(*args, **(kwargs or {}))
        if func.overloadpacket.__name__ in PRODUCTS:
            self.seconds += time.perf_counter() - begun
        return result


class Models:
    """Builds the trainings; models that another one needs have random weights."""

    def __init__(self, recipe: Recipe, data: Path, scratch: Path) -> None:
        self.recipe, self.data, self.scratch = recipe, data, scratch
        torch.manual_seed(0)
        self.eyes = FrameAutoencoder(recipe.autoencoder.size)
        self.world = world_model.new_world_model(self.eyes, recipe.world_model, [data])
        self.latents = LatentEpisodes.read([data], self.world, "cpu")

    def training(self, model: str) -> Training:
        """The training of `model`, as its command builds it, up to the call of `fit`."""
        rooms = {
            "world-model": world_model,
            "policy": imitation,
            "safety-head": safety_head,
            "success": success,
            "autoencoder": autoencoder,
        }
        caught: list[Training] = []

        def catch(
            name: str, network: torch.nn.Module, loss: Loss, config: FitConfig, *_: Any, **more: Any
        ) -> None:
            if name in ("state", "arm"):  # the world model's small networks, fitted before it
                return
            parameters = list(more.get("parameters") or network.parameters())
            modules = list(more.get("compile", ()))
            caught.append(Training(network, loss, config, parameters, modules))
            raise StopIteration

        with patch.object(rooms[model], "fit", catch), suppress(StopIteration):
            getattr(self, "_" + model.replace("-", "_"))(self._directory(model))
        return caught[0]

    def _directory(self, model: str) -> Path:
        return Path(tempfile.mkdtemp(prefix=model, dir=self.scratch))

    def _world_model(self, directory: Path) -> None:
        config = self.recipe.world_model
        model = world_model.new_world_model(self.eyes, config, [self.data])
        world_model.train_world_model(config, model, self.latents, directory)

    def _policy(self, directory: Path) -> None:
        imitation.train_policy(self.recipe.policy, Demonstrations.read([self.data]), directory)

    def _safety_head(self, directory: Path) -> None:
        config = self.recipe.safety
        model = safety_head.new_safety_model(self.eyes, config, self.data)
        imagined = imagined_contacts(model, self.world, self.latents, 64, 3, 0)
        recorded = recorded_contacts([self.data], model)
        safety_head.train_safety_head(config, model, recorded, directory, imagined=imagined)

    def _success(self, directory: Path) -> None:
        frames = recorded_frames([self.data])
        imagined = imagined_frames(self.world, self.latents, frames.instructions, 64, 3, 0)
        model = success.new_success_model(
            self.recipe.success, frames.instructions, self.world.cameras
        )
        success.train_success(self.recipe.success, model, frames, imagined, directory)

    def _autoencoder(self, directory: Path) -> None:
        images = autoencoder.recorded_images([self.data], 10_000)
        autoencoder.train_autoencoder(self.recipe.autoencoder, images, directory)


def wan_of_all(training: Training) -> None:
    """Let the world model ask the plain Wan transformer: a time for each token, all frames."""
    frames: Any = training.compile[0]
    plain: Any = WanTransformer3DModel

    def forward(
        clip: torch.Tensor, context: int, time: torch.Tensor, actions: torch.Tensor
    ) -> torch.Tensor:
        patch = frames.config.patch_size[1]
        tokens = clip.shape[-2] // patch * (clip.shape[-1] // patch)
        times = torch.zeros(len(clip), clip.shape[2], tokens)
        times[:, context:] = time[:, None, None] * TRAINING_TIMESTEPS
        answer = plain.forward(frames, clip, times.flatten(1), actions).sample
        asked: torch.Tensor = answer[:, :, context:]
        return asked

    frames.forward = forward


@contextmanager
def float32_policy() -> Iterator[None]:
    """Imitation multiplies in float32, as it did."""
    with patch.object(imitation, "fast_products", lambda module: nullcontext()):
        yield


def rows(models: Models, model: str, stack: ExitStack) -> list[Row]:
    """The ways to compute an update of `model`, from what it was to what it is."""
    before = Row("before", models.training(model), fused=False)
    fused = Row("fused AdamW", models.training(model))
    found = [before, fused]
    if model == "world-model":
        wan_of_all(before.training)
        wan_of_all(fused.training)
        found.append(Row("only what is asked", models.training(model)))
    if model == "policy":
        before.meanwhile = fused.meanwhile = float32_policy
        found.append(Row("bfloat16 products", models.training(model)))
    device = torch.device("cpu")
    halves = [False, True] if multiplies_bfloat16(device) else [False]
    if found[-1].training.compile and not compiling.compiler_fault(device):
        for half in halves:
            training = models.training(model)
            stack.enter_context(as_trained(training, half))
            found.append(Row(f"compiled, {DTYPES[half]}", training))
    return found


@contextmanager
def as_trained(training: Training, half: bool, compiles: bool = True) -> Iterator[None]:
    """The training's modules compute as in a long one; `half`: in bfloat16."""
    identity: Any = lambda function, **options: function  # noqa: E731
    with ExitStack() as only_here, ExitStack() as meanwhile:
        only_here.enter_context(patch.object(compiling, "multiplies_bfloat16", lambda _: half))
        if not compiles:
            only_here.enter_context(patch.object(torch, "compile", identity))
        meanwhile.enter_context(compiled(training.compile, LEAST_STEPS, say=lambda _: None))
        only_here.close()
        yield


def floors(models: Models, model: str, stack: ExitStack) -> list[Row]:
    """The products of an update alone, in float32 and, where they are used, in bfloat16."""
    found = []
    for half in (False, True):
        training = models.training(model)
        used = multiplies_bfloat16(torch.device("cpu")) and (training.compile or model == "policy")
        if half and not used:
            continue
        stack.enter_context(as_trained(training, half, compiles=False))
        meanwhile = nullcontext if half else float32_policy
        found.append(Row(f"floor, {DTYPES[half]}", training, meanwhile=meanwhile, products=True))
    return found


def measure(models: Models, model: str, updates: int) -> list[dict[str, Any]]:
    """Print the table of `model`; returns its figures."""
    with ExitStack() as stack:
        ways = rows(models, model, stack) + floors(models, model, stack)
        training = ways[0].training
        for row in ways:
            row.first = row.timed(0)
        for number in range(updates):
            step = 1 + number * (training.config.steps - 1) // updates  # all along the training
            for row in ways:
                row.seconds.append(row.timed(step))
    millions = sum(p.numel() for p in training.parameters) / 1e6
    print(f"\n{model}: {millions:.1f} M parameters, batch {training.config.batch_size}")
    heads = f"{'median':>8} {'least':>8} {'ratio':>6} {'loss':>9} {'first':>7}"
    print(f"  {'seconds an update':20} {heads}")
    figures, slow = [], statistics.median(ways[0].seconds)
    for row in ways:
        middle, least = statistics.median(row.seconds), min(row.seconds)
        loss = statistics.fmean(row.losses)
        print(
            f"  {row.name:20} {middle:8.4f} {least:8.4f} {slow / middle:6.2f} {loss:9.5f} "
            f"{row.first:7.1f}"
        )
        figures.append({"name": row.name, "seconds": middle, "least": least, "loss": loss})
    return figures


def main() -> int:
    """Record, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = "world-model,policy,safety-head,success,autoencoder"
    parser.add_argument("--models", default=names, help=f"by comma (default: {names})")
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--updates", type=int, default=20)
    parser.add_argument("--episodes", type=int, default=12)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    use_processor(args.threads)
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        data = Path(scratch) / "data"
        collect(
            Collection(
                out=data,
                episodes=args.episodes,
                style="mixed",
                levels=(1, 2),
                linger=8,
                players=Players(1),
            )
        )
        models = Models(read_recipe(args.preset), data, Path(scratch))
        for model in args.models.split(","):
            result[model] = measure(models, model, args.updates)
            if args.json:
                args.json.write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
