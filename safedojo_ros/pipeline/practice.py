"""Stage: makes a policy safer by reinforcement learning, in imagination or in the simulator."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safedojo_ros.checkpoints.manifest import read_manifest
from safedojo_ros.checkpoints.names import DEFAULT_POLICY, find_checkpoint, user_store
from safedojo_ros.checkpoints.provenance import seal
from safedojo_ros.core.errors import ConfigError
from safedojo_ros.core.files import write_whole
from safedojo_ros.learning.progress import Say
from safedojo_ros.learning.rl.methods import METHODS
from safedojo_ros.pipeline.collect import COLLECTION_PATH
from safedojo_ros.pipeline.players import Players
from safedojo_ros.pipeline.publication import publish
from safedojo_ros.pipeline.request import Imagining, Run, check_unused, named
from safedojo_ros.pipeline.scenes import OnWorld, chosen_tasks, tasks_of

if TYPE_CHECKING:
    from safedojo_ros.learning.build import Imagination
    from safedojo_ros.learning.rl.practice import Practice, PracticeConfig, PracticeOutcome
    from safedojo_ros.pipeline.recipe import Recipe

RESULT_FILE = "practice.json"


@dataclass(frozen=True, kw_only=True)
class PracticeInputs(OnWorld, Imagining):
    """The checkpoints and episodes that practice starts from."""

    base: str = named("policy", DEFAULT_POLICY)
    """policy to start from: name, id or directory (default: safe)"""
    data: tuple[Path, ...] = ()
    """episodes whose first frames imagined futures start from"""
    demonstrations: tuple[Path, ...] = ()
    """episodes that the policy keeps imitating meanwhile (settings: practice.anchor)"""


@dataclass(frozen=True, kw_only=True)
class PracticeRequest(PracticeInputs, Run):
    """How a policy is trained, from which inputs, and where the results go."""

    method: str = field(default="safedojo", metadata={"choices": tuple(METHODS)})
    """training method, see above"""
    players: Players = field(default_factory=Players)

    def __post_init__(self) -> None:
        if METHODS[self.method].world == "simulator":
            why = f"is for imagination; {self.method} trains in the simulator"
            check_unused(self, why, "data", "world_model", "success", "safety")
        elif not self.data:
            raise ConfigError("practice in imagination starts from recorded keyframes; give --data")


@dataclass(frozen=True)
class PracticeResult:
    """outcome: how it ended; published: id of the best policy in the store, "" for none;
    checkpoint: that policy's directory there, else in OUT.
    """

    outcome: "PracticeOutcome"
    published: str
    checkpoint: Path


def practice(
    recipe: "Recipe",
    request: PracticeRequest,
    stop: Callable[[], bool] = lambda: False,
    say: Say = print,
) -> PracticeResult:
    """Train; writes OUT/practice.json, and the best policy into OUT/policies.

    stop: called before every update; true: save and end. The policy is published only if practice
    was completed. Raises `PracticeRefused` where a check or gate failed before the first update.
    """
    trainer = build(recipe.practice, request, stop)
    config, outcome = trainer.config, trainer.run()
    for sentence in outcome.unenforced:
        say(f"not enforced: {sentence}")
    say(
        f"{outcome.stopped or 'done'}; best measured after {outcome.best} updates: {outcome.policy}"
    )
    published, checkpoint, details = "", outcome.policy, _details(recipe, request, config, outcome)
    seal("policy", outcome.policy, **details)
    try:
        if request.publish and outcome.completed:
            how: dict[str, Any] = {"force": request.force, "say": say}
            published = publish(request.store, "policy", outcome.policy, **how, **details).id
            checkpoint = user_store(request.store).resolve("policy", published)
    finally:
        _write_result(request, config, outcome, published)
    return PracticeResult(outcome, published, checkpoint)


def build(
    config: "PracticeConfig", request: PracticeRequest, stop: Callable[[], bool] = lambda: False
) -> "Practice":
    """The trainer of a request: loads its checkpoints and checks their gates."""
    from safedojo_ros.learning.build import build_practice
    from safedojo_ros.learning.rl.spread_rollouts import SpreadRollouts
    from safedojo_ros.models.loading import load_policy

    device, method = request.players.device(request.device), METHODS[request.method]
    base = load_policy(find_checkpoint("policy", request.base, request.store)).to(device)
    if config.tasks:
        tasks = chosen_tasks(request.world, config.tasks, config.levels)
    else:
        tasks = tasks_of(base, request.world, config.levels)
    imagination, missed = None, list[str]()
    if method.world == "imagination":
        imagination, missed = _imagination(request, device)
    workers = None
    players, count = request.players, request.players.workers or 1
    if players.ray is not None or count > 1:
        workers = SpreadRollouts(players.hire, count)
    return build_practice(
        config,
        method,
        base,
        tasks,
        request.out,
        simulator=request.world,
        imagination=imagination,
        demonstrations=request.demonstrations,
        resume=request.resume,
        missed_gates=missed,
        stop=stop,
        workers=workers,
    )


def _imagination(request: PracticeRequest, device: str) -> "tuple[Imagination, list[str]]":
    """The models that imagine, and one sentence for each gate that they missed."""
    from safedojo_ros.fidelity.gates import missed_gates
    from safedojo_ros.learning.build import Imagination
    from safedojo_ros.models.loading import load_safety, load_success, load_world_model

    world_model = find_checkpoint("world_model", request.world_model, request.store)
    success = find_checkpoint("success", request.success, request.store)
    safety = find_checkpoint("safety", request.safety, request.store)
    places = {"world_model": world_model, "success": success, "safety": safety}
    manifests = {kind: read_manifest(path) for kind, path in places.items()}
    fidelity = {kind: made.fidelity for kind, made in manifests.items()}
    missed = missed_gates(fidelity, {kind: manifests[kind].id for kind in ("success", "safety")})
    model = load_world_model(world_model)
    model.parts.to(device)
    return Imagination(model, load_success(success), load_safety(safety), request.data), missed


def _details(
    recipe: "Recipe",
    request: PracticeRequest,
    config: "PracticeConfig",
    outcome: "PracticeOutcome",
) -> dict[str, Any]:
    """What the manifest of the best policy says beside its files."""
    from safedojo_ros.models.loading import load_policy

    row = next(row for row in outcome.evaluations if row["step"] == outcome.best)
    policy = load_policy(outcome.policy)
    return {
        "preset": recipe.preset,
        "spec": policy.spec(),
        "normalisation": policy.scales.to_json(),
        "parent": read_manifest(find_checkpoint("policy", request.base, request.store)).id,
        "evaluation": {"validation": row["report"]},
        "fidelity": {
            "practice": {
                "method": request.method,
                "updates": outcome.best,
                "in_practice": row["in_practice"],
                "measured": row["measured"],
                "real_episodes": outcome.real_episodes,
                "real_collisions": outcome.real_collisions,
                "seed": config.seed,
            }
        },
    }


def _write_result(
    request: PracticeRequest, config: "PracticeConfig", outcome: "PracticeOutcome", published: str
) -> None:
    """OUT/practice.json, which `safedojo report` reads."""
    values: dict[str, Any] = asdict(outcome) | {
        "policy": outcome.policy.relative_to(request.out).as_posix(),
        "method": request.method,
        "base": request.base,
        "published": published or None,
        "config": asdict(config),
        "limit": config.multiplier.limit if METHODS[request.method].limited else None,
        "demonstrations": [str(path) for path in request.demonstrations],
        "data": data_cost(request.data),
    }
    write_whole(request.out / RESULT_FILE, json.dumps(values, indent=1) + "\n")


def data_cost(directories: Sequence[Path]) -> dict[str, int]:
    """How many real episodes data sets took, and how many touched the obstacle.

    Episodes that were dropped count as episodes; whether they touched it is not recorded.
    """
    from safedojo_ros.data.lerobot.reader import EpisodeReader

    episodes = collisions = 0
    for directory in directories:
        rows = EpisodeReader(directory).rows
        collection = directory / COLLECTION_PATH
        played = json.loads(collection.read_bytes())["played"] if collection.exists() else 0
        episodes += max(len(rows), played)
        collisions += sum(row.touched for row in rows)
    return {"episodes": episodes, "collisions": collisions}
