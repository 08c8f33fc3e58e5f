"""`safedojo train`: each stage of learning as a command that can be resumed."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from safedojo_ros.models.autoencoder import FrameAutoencoder
    from safedojo_ros.models.pi0_policy import PI0Policy
    from safedojo_ros.models.safety_head import SafetyModel
    from safedojo_ros.models.success_classifier import SuccessModel
    from safedojo_ros.models.world_model import WorldModel

STAGES = {
    "policy": "imitate recorded episodes by flow matching (π0)",
    "safety": "fit the frame autoencoder, then the safety head, to recorded contacts; with "
    "--world-model the head alone, to imagined states, too",
    "world-model": "fit the video world model, over the autoencoder of a safety checkpoint",
    "success": "fit the success classifier to recorded frames, and to imagined ones beside them",
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the stages and their options."""
    stages = parser.add_subparsers(dest="stage", required=True, metavar="STAGE")
    for stage, text in STAGES.items():
        options = stages.add_parser(stage, help=text, description=text)
        options.add_argument(
            "--data",
            type=Path,
            required=True,
            nargs="+",
            help="directories of episodes (safedojo collect)",
        )
        options.add_argument("--out", type=Path, required=True, help="directory of this run")
        options.add_argument(
            "--preset", default="tiny", help="smoke, tiny, small or a TOML file (default: tiny)"
        )
        options.add_argument(
            "--set",
            action="append",
            default=[],
            metavar="SECTION.KEY=VALUE",
            help="change one value of the preset, for instance policy.steps=2000",
        )
        if stage in ("policy", "world-model"):
            options.add_argument(
                "--start", metavar="CHECKPOINT", help="refine this one, do not begin at random"
            )
        if stage == "world-model":
            options.add_argument(
                "--safety",
                default="latest",
                help="safety checkpoint whose autoencoder is used, without --start",
            )
        if stage == "success":
            options.add_argument(
                "--safety", default="latest", help="safety checkpoint to imagine with, for --policy"
            )
            options.add_argument(
                "--policy",
                metavar="CHECKPOINT",
                help="choose the threshold for imagined frames so that this policy succeeds as "
                "often in the --world-model as in --played",
            )
            options.add_argument(
                "--played",
                type=Path,
                metavar="DIR",
                help="episodes that it played (collect --policy, without --noise)",
            )
        if stage in ("safety", "success"):
            options.add_argument(
                "--world-model", metavar="CHECKPOINT", help="learn from what it imagines, too"
            )
        options.add_argument("--resume", action="store_true", help="go on from the last save")
        options.add_argument("--device", default="auto", help="cpu, cuda or auto (default)")
        options.add_argument("--threads", type=int, default=0, help="torch threads; 0: torch's own")
        options.add_argument(
            "--publish", action="store_true", help="put the result into the checkpoint store"
        )
        options.add_argument(
            "--half", action="store_true", help="store the result as float16, as what ships is"
        )
        options.add_argument("--store", type=Path, help="root of the store (default: the user's)")


def run(args: argparse.Namespace) -> int:
    """Train one stage; its checkpoint lies in `args.out`/checkpoint."""
    import torch

    from safedojo_ros.models.threads import use_processor

    use_processor(args.threads)
    if args.device == "auto":
        args.device = "cuda" if torch.cuda.is_available() else "cpu"
    model: PI0Policy | SafetyModel | WorldModel | SuccessModel
    figures: dict[str, Any] = {}
    if args.stage == "policy":
        model = train_policy_stage(args)
    elif args.stage == "safety":
        model, figures = train_safety_stage(args)
    elif args.stage == "success":
        model, figures = train_success_stage(args)
    else:
        model, figures = train_world_model_stage(args)
    directory = args.out / "checkpoint"
    directory.mkdir(parents=True, exist_ok=True)
    model.save(directory, half=args.half)
    scales = getattr(model, "scales", None)  # a success classifier reads pictures alone
    normalisation = scales.to_json() if scales else {}
    details = {"spec": model.spec(), "normalisation": normalisation, "fidelity": figures}
    (args.out / "details.json").write_text(json.dumps(details, indent=1) + "\n")
    print(f"{args.stage} checkpoint in {directory}")
    if args.publish:
        publish(args, directory, details)
    return 0


def train_policy_stage(args: argparse.Namespace) -> "PI0Policy":
    """Imitation."""
    from safedojo_ros.checkpoints.names import find_checkpoint
    from safedojo_ros.learning.imitation import Demonstrations, ImitationConfig, train_policy
    from safedojo_ros.learning.presets import read_preset
    from safedojo_ros.models.loading import load_policy

    config = read_preset(args.preset, "policy", ImitationConfig, args.set)
    data = Demonstrations.read(args.data, config.only_safe)
    print(
        f"{len(data.state)} frames, {len(data.taught)} of them imitated, "
        f"{len(data.instructions)} instructions"
    )
    start = None
    if args.start:
        start = load_policy(find_checkpoint("policy", args.start, args.store))
    return train_policy(config, data, args.out, args.resume, args.device, start)


def train_safety_stage(args: argparse.Namespace) -> "tuple[SafetyModel, dict[str, Any]]":
    """Autoencoder, or that of a world model; frames, imagined states beside them; head, figures."""
    from safedojo_ros.checkpoints.names import find_checkpoint
    from safedojo_ros.learning import safety_head as training
    from safedojo_ros.learning.data import imagined_contacts as dreams
    from safedojo_ros.learning.presets import read_preset
    from safedojo_ros.learning.world_model import LatentEpisodes
    from safedojo_ros.models.loading import load_world_model

    config = read_preset(args.preset, "safety", training.SafetyConfig, args.set)
    imagined = None
    if args.world_model:
        world = load_world_model(find_checkpoint("world_model", args.world_model, args.store))
        world.parts.to(args.device)
        model = training.new_safety_model(world.autoencoder, config, args.data[0])
        data = LatentEpisodes.read(args.data, world, args.device)
        imagined = dreams.imagined_contact_frames(config, model, world, data)
        print(f"{len(imagined.episode)} imagined states")
    else:
        autoencoder = train_autoencoder_stage(args)
        model = training.new_safety_model(autoencoder, config, args.data[0])
    frames = training.contact_frames(args.data, model, args.device)
    figures = training.train_safety_head(
        config, model, frames, args.out / "head", args.resume, args.device, imagined
    )
    if imagined is not None:
        figures["imagined"] |= dreams.calibrate_threshold(config, model, world, data)
    model.network.cpu()
    dreamt = figures.get("imagined", {})
    for source, values in (("", figures), ("imagined states of ", dreamt)):
        said = ", ".join(f"{k} {v:.4g}" for k, v in values.items() if k != "imagined")
        if said:
            print(f"{source}held-out episodes: {said}")
    return model, figures


def train_autoencoder_stage(args: argparse.Namespace) -> "FrameAutoencoder":
    """The frame autoencoder, in OUT/autoencoder."""
    from safedojo_ros.learning import autoencoder as training
    from safedojo_ros.learning.presets import read_preset

    config = read_preset(args.preset, "autoencoder", training.AutoencoderConfig, args.set)
    images = training.recorded_pictures(args.data, config.moments)
    return training.train_autoencoder(
        config, images, args.out / "autoencoder", args.resume, args.device
    )


def train_world_model_stage(args: argparse.Namespace) -> "tuple[WorldModel, dict[str, Any]]":
    """Latents, world model, errors by horizon on held-out episodes."""
    from dataclasses import asdict, replace

    from safedojo_ros.checkpoints.names import find_checkpoint
    from safedojo_ros.fidelity.replay_error import replay_errors
    from safedojo_ros.learning import world_model as training
    from safedojo_ros.learning.presets import read_preset
    from safedojo_ros.models.loading import load_safety, load_world_model

    config = read_preset(args.preset, "world_model", training.WorldModelConfig, args.set)
    if args.start:
        model = load_world_model(find_checkpoint("world_model", args.start, args.store))
        config = replace(config, size=model.size)
    else:
        autoencoder = load_safety(find_checkpoint("safety", args.safety, args.store)).autoencoder
        model = training.new_world_model(autoencoder, config.size, args.data)
    model.parts.to(args.device)
    data = training.LatentEpisodes.read(args.data, model, args.device)
    training.train_world_model(config, model, data, args.out, args.resume, args.device)
    errors = replay_errors(model, data, data.held_out(config.held_out, config.seed))
    model.parts.cpu()
    figures = {"by_horizon": [asdict(error) for error in errors]}
    for error in errors:
        print(
            f"after {error.steps:2} steps ({error.count} held-out replays): "
            f"mse {error.mse[0]:.5f}, copying {error.copying[0]:.5f}, "
            f"permuted actions {error.permuted[0]:.5f}, state {error.state_cm[0]:.2f} cm"
        )
    return model, figures


def train_success_stage(args: argparse.Namespace) -> "tuple[SuccessModel, dict[str, Any]]":
    """Recorded frames, imagined frames where a world model is given, classifier, threshold."""
    from safedojo_ros.checkpoints.names import find_checkpoint
    from safedojo_ros.core.errors import ConfigError, DatasetError
    from safedojo_ros.data.lerobot.reader import EpisodeReader
    from safedojo_ros.learning import success as training
    from safedojo_ros.learning.presets import read_preset
    from safedojo_ros.learning.world_model import LatentEpisodes
    from safedojo_ros.models.loading import load_world_model

    if args.policy and not (args.world_model and args.played):
        raise ConfigError("--policy needs --world-model, and --played, what this policy played")
    config = read_preset(args.preset, "success", training.SuccessConfig, args.set)
    frames = training.recorded_frames(args.data)
    print(f"{len(frames.success)} frames, {int(frames.success.sum())} of them show success")
    cameras = EpisodeReader(args.data[0]).cameras
    imagined = None
    if args.world_model:
        world = load_world_model(find_checkpoint("world_model", args.world_model, args.store))
        if world.cameras != cameras:
            raise DatasetError(f"cameras are {cameras}, the world model's are {world.cameras}")
        world.parts.to(args.device)
        data = LatentEpisodes.read(args.data, world, args.device)
        imagined = training.imagined_frames(config, world, data, frames.instructions)
        print(f"{len(imagined.success)} imagined, {int(imagined.success.sum())} show success")
    model = training.new_success_model(config, frames.instructions, cameras)
    figures = training.train_success(
        config, model, frames, imagined, args.out, args.resume, args.device
    )
    if args.policy:
        match_success_rate(args, model, world)
    model.network.cpu()
    imagined_threshold = model.imagined_threshold or model.threshold
    print(
        f"threshold {model.threshold:.2f}, for imagined frames {imagined_threshold:.2f}, "
        f"{model.consecutive} consecutive frames"
    )
    for source in ("real", "imagined"):
        if source in figures:
            values = ", ".join(f"{k} {v:.4g}" for k, v in figures[source].items())
            print(f"{source} frames of held-out episodes: {values}")
    return model, figures


def match_success_rate(
    args: argparse.Namespace, model: "SuccessModel", world: "WorldModel"
) -> None:
    """Set the threshold for imagined frames by what a policy did in the world."""
    from safedojo_ros.checkpoints.names import find_checkpoint
    from safedojo_ros.fidelity.imagined_rates import read_played, success_scores
    from safedojo_ros.fidelity.thresholds import ValidationConfig
    from safedojo_ros.learning.presets import read_preset
    from safedojo_ros.learning.rl.imagined_world import ImaginationConfig, ImaginedWorld
    from safedojo_ros.learning.success import match_rate
    from safedojo_ros.models.loading import load_policy, load_safety

    policy = load_policy(find_checkpoint("policy", args.policy, args.store))
    safety = load_safety(find_checkpoint("safety", args.safety, args.store))
    steps = read_preset(args.preset, "validation", ValidationConfig, args.set).max_steps
    trials, success = read_played(args.played, policy.checkpoint_id)
    imagined = ImaginedWorld(world, model, safety, ImaginationConfig(max_steps=steps))
    scores = success_scores(policy, imagined, trials)
    match_rate(model, scores, success, policy.checkpoint_id)


def publish(args: argparse.Namespace, directory: Path, details: dict[str, Any]) -> None:
    """Put the checkpoint into the store and say its id."""
    from safedojo_ros.checkpoints.names import user_store
    from safedojo_ros.checkpoints.store.store import CheckpointStore

    store = CheckpointStore(args.store) if args.store else user_store()
    kind = args.stage.replace("-", "_")
    manifest = store.publish(kind, directory, **details)
    print(f"published {kind} {manifest.id} in {store.root}")
