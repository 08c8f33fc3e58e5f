"""Stages that train policy, safety head, world model and success classifier on episodes."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from safedojo_ros.checkpoints.names import SHIPPED, find_checkpoint
from safedojo_ros.checkpoints.provenance import seal
from safedojo_ros.core.errors import ConfigError, DatasetError
from safedojo_ros.learning.progress import Say
from safedojo_ros.pipeline.publication import publish
from safedojo_ros.pipeline.request import OnData, Run, check_unused, named
from safedojo_ros.pipeline.scenes import OnWorld

if TYPE_CHECKING:
    from safedojo_ros.models.pi0_policy import PI0Policy
    from safedojo_ros.models.safety_head import SafetyModel
    from safedojo_ros.models.success_classifier import SuccessModel
    from safedojo_ros.models.world_model import WorldModel
    from safedojo_ros.pipeline.recipe import Recipe

Kind = Literal["policy", "safety", "world_model", "success"]


@dataclass(frozen=True, kw_only=True)
class Training(OnData, Run):
    """The request of every training."""

    half: bool = False
    """store the result as float16, like the checkpoints that ship"""


@dataclass(frozen=True, kw_only=True)
class TrainPolicy(Training):
    """Imitate."""

    start: str = named("policy", "")
    """fine-tune this checkpoint, in place of random weights"""


@dataclass(frozen=True, kw_only=True)
class TrainSafety(Training):
    """Train autoencoder and safety head; with a world model the head alone."""

    world_model: str = named("world_model", "")
    """train on what this checkpoint imagines, too"""


@dataclass(frozen=True, kw_only=True)
class TrainSeen(Training):
    """The limits of the images that a trained safety head judges by."""

    safety: str = named("safety", SHIPPED)
    """safety checkpoint; its weights stay as they are"""


@dataclass(frozen=True, kw_only=True)
class TrainWorldModel(Training):
    """Train a world model over the autoencoder of a safety checkpoint."""

    start: str = named("world_model", "")
    """fine-tune this checkpoint, in place of random weights"""
    safety: str = named("safety", SHIPPED)
    """safety checkpoint whose autoencoder is used, without --start"""

    def __post_init__(self) -> None:
        if self.start:
            check_unused(self, "is not used with --start", "safety")


@dataclass(frozen=True, kw_only=True)
class TrainSuccess(OnWorld, Training):
    """Train a success classifier."""

    world_model: str = named("world_model", "")
    """train on what this checkpoint imagines, too"""
    policy: str = named("policy", "")
    """choose the threshold for imagined frames so that this policy succeeds as often in the
    --world-model as in --played"""
    played: Path | None = None
    """episodes of that policy (collect --policy, without --noise)"""
    safety: str = named("safety", SHIPPED)
    """safety checkpoint to imagine with, for --policy"""

    def __post_init__(self) -> None:
        if self.policy and not (self.world_model and self.played):
            raise ConfigError("--policy needs --world-model, and --played, episodes of this policy")
        if not self.policy:
            check_unused(self, "needs --policy", "played", "safety", "world")


@dataclass(frozen=True)
class Trained:
    """The result of a training.

    checkpoint: its directory in the store if it was published, else in OUT;
    published: its id, or ""; figures: of held-out episodes.
    """

    checkpoint: Path
    published: str
    figures: dict[str, Any]


def train_policy(recipe: "Recipe", request: TrainPolicy, say: Say = print) -> Trained:
    """Imitate recorded episodes."""
    from safedojo_ros.learning import imitation
    from safedojo_ros.models.loading import load_policy
    from safedojo_ros.models.threads import chosen_device

    data = imitation.Demonstrations.read(request.sources, recipe.policy.only_safe)
    say(
        f"{len(data.state)} frames, {len(data.imitated)} of them imitated, "
        f"{len(data.instructions)} instructions"
    )
    start = (
        load_policy(find_checkpoint("policy", request.start, request.store))
        if request.start
        else None
    )
    device = chosen_device(request.device)
    model = imitation.train_policy(recipe.policy, data, request.out, request.resume, device, start)
    return _finished("policy", request, model, {}, recipe.preset, say)


def train_safety(recipe: "Recipe", request: TrainSafety, say: Say = print) -> Trained:
    """Fit the frame autoencoder, then the safety head, to recorded contacts.

    With a world model: the head alone, over its autoencoder, to imagined states, too.
    """
    from safedojo_ros.learning import autoencoder, safety_head, seen_images
    from safedojo_ros.learning.contact_examples import contact_examples
    from safedojo_ros.learning.data import contacts
    from safedojo_ros.learning.data.latent_episodes import LatentEpisodes
    from safedojo_ros.learning.data.splits import held_out_episodes
    from safedojo_ros.models.loading import load_world_model
    from safedojo_ros.models.threads import chosen_device

    config, device, data = recipe.safety, chosen_device(request.device), request.sources
    contacts.check_labels(data)
    imagined = None
    if request.world_model:
        world = load_world_model(find_checkpoint("world_model", request.world_model, request.store))
        world.parts.to(device)
        model = safety_head.new_safety_model(world.autoencoder, config, data[0])
        latents = LatentEpisodes.read(data, world, device)
        imagined = contacts.imagined_contacts(
            model, world, latents, config.replays, config.chunks, config.seed
        )
        say(f"{len(imagined.episode)} imagined states")
    else:
        images = autoencoder.recorded_images(data, recipe.autoencoder.frames)
        encoder = autoencoder.train_autoencoder(
            recipe.autoencoder, images, request.out / "autoencoder", request.resume, device
        )
        model = safety_head.new_safety_model(encoder, config, data[0])
    frames = contacts.recorded_contacts(data, model, device)
    figures = safety_head.train_safety_head(
        config, model, frames, request.out / "head", request.resume, device, imagined
    )
    if imagined is not None:
        figures["imagined"] |= safety_head.calibrate_threshold(config, model, world, latents)
    model.seen = seen_images.seen_images(model, data, config.held_out, config.seed, device)
    model.network.cpu()
    say(f"limits of what the head has seen: {model.seen}")
    held_out = held_out_episodes(int(frames.episode.max()) + 1, config.held_out, config.seed)
    model.examples = contact_examples(data, model, held_out.tolist(), config.seed)
    if model.examples is None:
        say(
            "the held-out episodes give no contact examples: a node may start with this head, but "
            "it will not replace one that runs; train on more episodes with contacts"
        )
    parts = {"": figures, "imagined states of ": figures.get("imagined", {})}
    parts |= {f"{name}, ": values for name, values in figures.get("others", {}).items()}
    for source, values in parts.items():
        said = ", ".join(
            f"{k} {v:.4g}" for k, v in values.items() if k not in ("imagined", "others")
        )
        if said:
            say(f"{source}held-out episodes: {said}")
    return _finished("safety", request, model, figures, recipe.preset, say)


def train_seen(recipe: "Recipe", request: TrainSeen, say: Say = print) -> Trained:
    """Set the limits of what a safety head has seen by recorded episodes, some of them held out."""
    from safedojo_ros.checkpoints.manifest import read_manifest
    from safedojo_ros.learning.seen_images import seen_images
    from safedojo_ros.models.loading import load_safety
    from safedojo_ros.models.threads import chosen_device

    device, source = (
        chosen_device(request.device),
        find_checkpoint("safety", request.safety, request.store),
    )
    model = load_safety(source)
    held_out, seed = recipe.safety.held_out, recipe.safety.seed
    model.seen = seen_images(model, request.sources, held_out, seed, device)
    model.network.cpu()
    say(f"limits of what the head has seen: {model.seen}")
    made = read_manifest(source)
    return _finished("safety", request, model, made.fidelity, made.preset, say)


def train_world_model(recipe: "Recipe", request: TrainWorldModel, say: Say = print) -> Trained:
    """Fit the video world model to latents; its figures are errors by horizon."""
    from safedojo_ros.fidelity.replay_error import replay_errors
    from safedojo_ros.fidelity.validation import finite
    from safedojo_ros.learning import world_model
    from safedojo_ros.learning.data.latent_episodes import LatentEpisodes
    from safedojo_ros.models.loading import load_safety, load_world_model
    from safedojo_ros.models.threads import chosen_device

    config, device, data = recipe.world_model, chosen_device(request.device), request.sources
    if request.start:
        model = load_world_model(find_checkpoint("world_model", request.start, request.store))
        config = replace(config, size=model.size)
    else:
        safety = load_safety(find_checkpoint("safety", request.safety, request.store))
        model = world_model.new_world_model(safety.autoencoder, config, data)
    model.parts.to(device)
    latents = LatentEpisodes.read(data, model, device)
    world_model.train_world_model(config, model, latents, request.out, request.resume, device)
    errors = replay_errors(model, latents, world_model.held_out(config, latents))
    model.parts.cpu()
    for error in errors:
        say(
            f"after {error.steps:2} steps ({error.count} held-out replays): "
            f"mse {error.mse[0]:.5f}, copying {error.copying[0]:.5f}, "
            f"permuted actions {error.permuted[0]:.5f}, state {error.state_cm[0]:.2f} cm"
        )
    figures = finite({"by_horizon": [asdict(error) for error in errors]})
    return _finished("world_model", request, model, figures, recipe.preset, say)


def train_success(recipe: "Recipe", request: TrainSuccess, say: Say = print) -> Trained:
    """Fit the success classifier to recorded frames, and to imagined ones beside them."""
    from safedojo_ros.data.lerobot.frames import open_set
    from safedojo_ros.learning import success
    from safedojo_ros.learning.data import success_frames
    from safedojo_ros.learning.data.latent_episodes import LatentEpisodes
    from safedojo_ros.models.loading import load_world_model
    from safedojo_ros.models.threads import chosen_device

    config, device, data = recipe.success, chosen_device(request.device), request.sources
    frames = success_frames.recorded_frames(data)
    say(f"{len(frames.success)} frames, {int(frames.success.sum())} of them show success")
    cameras = open_set(data[0]).cameras
    imagined = None
    if request.world_model:
        world = load_world_model(find_checkpoint("world_model", request.world_model, request.store))
        if world.cameras != cameras:
            raise DatasetError(f"cameras are {cameras}, the world model's are {world.cameras}")
        world.parts.to(device)
        latents = LatentEpisodes.read(data, world, device)
        imagined = success_frames.imagined_frames(
            world, latents, frames.instructions, config.replays, config.chunks, config.seed
        )
        say(f"{len(imagined.success)} imagined, {int(imagined.success.sum())} show success")
    model = success.new_success_model(config, frames.instructions, cameras)
    figures = success.train_success(
        config, model, frames, imagined, request.out, request.resume, device
    )
    if request.policy:
        _match_success_rate(recipe, request, model, world)
    model.network.cpu()
    say(
        f"threshold {model.threshold:.2f}, for imagined frames "
        f"{model.imagined_threshold or model.threshold:.2f}, "
        f"{model.consecutive} consecutive frames"
    )
    for source in ("real", "imagined"):
        if source in figures:
            values = ", ".join(f"{k} {v:.4g}" for k, v in figures[source].items())
            say(f"{source} frames of held-out episodes: {values}")
    return _finished("success", request, model, figures, recipe.preset, say)


def _match_success_rate(
    recipe: "Recipe", request: TrainSuccess, model: "SuccessModel", world: "WorldModel"
) -> None:
    """Set the threshold for imagined frames by a policy's rate of success in the simulator."""
    from safedojo_ros.fidelity.imagined_rates import read_played, success_scores
    from safedojo_ros.learning.rl.imagined_world import ImaginedWorld
    from safedojo_ros.learning.success import match_rate
    from safedojo_ros.models.loading import load_policy, load_safety

    assert request.played is not None
    policy = load_policy(find_checkpoint("policy", request.policy, request.store))
    safety = load_safety(find_checkpoint("safety", request.safety, request.store))
    trials, succeeded = read_played(request.played, policy.checkpoint_id)
    imagined = ImaginedWorld(world, model, safety, recipe.validation.max_steps)
    scores = success_scores(policy, imagined, trials, request.world)
    match_rate(model, scores, succeeded, policy.checkpoint_id)


def _finished(
    kind: Kind,
    request: Training,
    model: "PI0Policy | SafetyModel | WorldModel | SuccessModel",
    figures: dict[str, Any],
    preset: str,
    say: Say,
) -> Trained:
    """Write OUT/checkpoint; publish if that is asked for. Of several processes the first does."""
    from safedojo_ros.learning import processes

    directory = request.out / "checkpoint"
    if processes.number():
        return Trained(directory, "", figures)
    directory.mkdir(parents=True, exist_ok=True)
    model.save(directory, half=request.half)
    scales = getattr(model, "scales", None)  # a success classifier has none: its input is images
    normalisation = scales.to_json() if scales else {}
    details: dict[str, Any] = {
        "spec": model.spec(),
        "normalisation": normalisation,
        "fidelity": figures,
        "preset": preset,
    }
    seal(kind, directory, **details)
    say(f"{kind.replace('_', '-')} checkpoint in {directory}")
    if not request.publish:
        return Trained(directory, "", figures)
    made = publish(request.store, kind, directory, force=request.force, say=say, **details)
    return Trained(find_checkpoint(kind, made.id, request.store), made.id, figures)
