"""Stage: how far a world model, its success classifier and safety head can be trusted."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safedojo_ros.checkpoints.manifest import read_manifest
from safedojo_ros.checkpoints.names import find_checkpoint
from safedojo_ros.checkpoints.provenance import made_here
from safedojo_ros.core.errors import ConfigError
from safedojo_ros.core.files import write_whole
from safedojo_ros.learning.progress import Say
from safedojo_ros.pipeline.request import Imagining, OnData, named
from safedojo_ros.pipeline.scenes import OnWorld, tasks_of

if TYPE_CHECKING:
    from safedojo_ros.fidelity.thresholds import ValidationConfig, Verdict
    from safedojo_ros.learning.rl.imagined_world import ImaginedWorld
    from safedojo_ros.pipeline.recipe import Recipe

REPORT, PAGE, DETAILS = "fidelity.json", "fidelity.html", "details.json"


@dataclass(frozen=True, kw_only=True)
class Validation(OnWorld, OnData, Imagining):
    """The models to validate, and held-out episodes of a policy, collisions included (collect
    --split validation), to validate them with."""

    out: Path
    """directory of the report"""
    policy: str = named("policy", "")
    """compare the imagined and the measured rates of this policy"""
    policies: tuple[str, ...] = named("policy", ())
    """compare the imagined and the measured ranks of these policies (five or more)"""
    measured: tuple[Path, ...] = ()
    """evaluations of these policies (safedojo evaluate --json); other policies are measured now, on
    validation seeds"""

    def __post_init__(self) -> None:
        if self.measured and not (self.policy or self.policies):
            raise ConfigError("--measured needs --policy or --policies, which it is about")


@dataclass(frozen=True)
class Validated:
    """verdicts: one for each bar; details: for the world model's manifest; page: the report."""

    verdicts: "list[Verdict]"
    details: dict[str, Any]
    page: Path

    @property
    def missed(self) -> "list[Verdict]":
        """The verdicts on bars that were missed."""
        return [verdict for verdict in self.verdicts if not verdict.passed]


def validate(recipe: "Recipe", request: Validation, say: Say = print) -> Validated:
    """Replay held-out episodes in imagination and compare each figure with its bar.

    Writes fidelity.json, fidelity.html and details.json, which is for `safedojo checkpoint publish
    world_model DIRECTORY --details`.
    """
    from safedojo_ros.fidelity import validation
    from safedojo_ros.fidelity.held_out import read_held_out
    from safedojo_ros.fidelity.report import report_page
    from safedojo_ros.fidelity.thresholds import judge
    from safedojo_ros.learning.rl.imagined_world import ImaginedWorld
    from safedojo_ros.models.loading import load_safety, load_success, load_world_model
    from safedojo_ros.models.threads import chosen_device

    config, device = recipe.validation, chosen_device(request.device)
    directory = find_checkpoint("world_model", request.world_model, request.store)
    world = load_world_model(directory)
    success = load_success(find_checkpoint("success", request.success, request.store))
    safety = load_safety(find_checkpoint("safety", request.safety, request.store))
    world.parts.to(device)
    success.network.to(device)
    held = read_held_out(request.sources, world, config.episodes, device)
    sections, strips = validation.validate(config, world, success, safety, held, say)
    if request.policy or request.policies:
        imagined = ImaginedWorld(world, success, safety, config.max_steps)
        sections |= _policy_sections(request, config, imagined, say)
    names = {
        "world_model": world.checkpoint_id,
        "success": success.checkpoint_id,
        "safety": safety.checkpoint_id,
    }
    values = validation.bar_values(sections)
    verdicts = judge(config.bars, values, rates="rates" in sections)
    report: dict[str, Any] = {
        "schema": 1,
        "checkpoints": names,
        "config": asdict(config),
        "bars": [asdict(v) for v in verdicts],
        **sections,
    }
    report = validation.finite(report)
    details = {
        "spec": world.spec(),
        "normalisation": world.scales.to_json(),
        "fidelity": {key: value for key, value in report.items() if key != "config"},
        "preset": read_manifest(directory).preset,
    }
    request.out.mkdir(parents=True, exist_ok=True)
    for name, content in ((REPORT, report), (DETAILS, details)):
        write_whole(request.out / name, json.dumps(content, indent=1, allow_nan=False) + "\n")
    made = made_here(recipe.preset)
    write_whole(request.out / PAGE, report_page(names, report, verdicts, strips, made))
    for verdict in verdicts:
        say(f"{'pass' if verdict.passed else 'MISS'}  {verdict.sentence}")
    say(f"report in {request.out / PAGE}")
    return Validated(verdicts, details, request.out / PAGE)


def _policy_sections(
    request: Validation, config: "ValidationConfig", world: "ImaginedWorld", say: Say
) -> dict[str, Any]:
    """The sections "rates" and "within" (of `policy`) and "ranking" (of `policies`)."""
    from safedojo_ros.evaluation.protocol import world_trials
    from safedojo_ros.fidelity import imagined_rates
    from safedojo_ros.fidelity.within_scenes import within_scenes
    from safedojo_ros.models.loading import load_policy
    from safedojo_ros.worlds.registry import world_kind
    from safedojo_ros.worlds.seeds import split_seeds

    known = {}
    for path in request.measured:
        policy_id, trials, real = imagined_rates.read_measured(path, config.max_steps)
        known[policy_id] = (trials, real)
    simulator = request.world
    tasks = tasks_of(world.success, simulator)
    seeds = split_seeds("validation", 0, config.rate_episodes)
    fresh = world_trials(simulator, seeds, tasks, world_kind(simulator).levels)
    outcomes: dict[str, tuple[imagined_rates.Outcomes, imagined_rates.Outcomes]] = {}

    def run(name: str) -> str:
        policy = load_policy(find_checkpoint("policy", name, request.store))
        key = policy.checkpoint_id
        if key not in outcomes:
            say(f"policy {key}: imagined and measured")
            if key in known:
                trials, real = known[key]
            else:
                size = world.image_size
                real = imagined_rates.measure(policy, fresh, config.max_steps, size, simulator)
                trials = fresh
            outcomes[key] = (
                imagined_rates.imagine_trials(policy, world, trials, simulator),
                real,
            )
        return key

    sections: dict[str, Any] = {}
    if request.policy:
        key = run(request.policy)
        sections["policy"] = key
        sections["rates"] = imagined_rates.rates_apart(*outcomes[key], config.seed)
        say(f"policy {key}: several futures of a scene")
        seeds = split_seeds("validation", config.rate_episodes, -(-config.scenes // 2))
        scenes = world_trials(simulator, seeds, tasks, [1, 2])[: config.scenes]
        policy = load_policy(find_checkpoint("policy", request.policy, request.store))
        sections["within"] = within_scenes(
            policy, world, scenes, config.futures, config.seed, simulator
        )
    if request.policies:
        names = list(dict.fromkeys(run(name) for name in request.policies))
        imagined, measured = ([outcomes[name][side] for name in names] for side in (0, 1))
        sections["ranking"] = imagined_rates.ranking(names, imagined, measured, config.seed)
    return sections
