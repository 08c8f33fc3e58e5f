"""The pipeline: every stage in order, from demonstrations to a published policy.

A finished stage is never repeated, so the same call resumes a pipeline that was killed.
Intermediate checkpoints stay in OUT/store; OUT/result.json says what was published, or why nothing
was.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from safedojo_ros.checkpoints.figures import recorded
from safedojo_ros.checkpoints.manifest import read_manifest
from safedojo_ros.checkpoints.names import find_checkpoint
from safedojo_ros.core.errors import SafeDojoError
from safedojo_ros.core.files import claim
from safedojo_ros.learning.progress import Say
from safedojo_ros.learning.rl.methods import METHODS
from safedojo_ros.pipeline.collect import Collection, collect
from safedojo_ros.pipeline.evaluate import Evaluation, evaluate
from safedojo_ros.pipeline.ledger import StageLedger
from safedojo_ros.pipeline.players import Players
from safedojo_ros.pipeline.practice import PracticeRequest, practice
from safedojo_ros.pipeline.publication import PublicationRefused, publish
from safedojo_ros.pipeline.request import OnDevice, named
from safedojo_ros.pipeline.scenes import tasks_of
from safedojo_ros.pipeline.training import (
    Trained,
    TrainPolicy,
    TrainSafety,
    TrainSuccess,
    TrainWorldModel,
    train_policy,
    train_safety,
    train_success,
    train_world_model,
)
from safedojo_ros.pipeline.validate import Validation, validate

if TYPE_CHECKING:
    from safedojo_ros.pipeline.recipe import Recipe

IMAGINATION = ("safety", "world_model", "success")
"""Prefixes of the stages that train the imagined world."""
REAL = ("demonstrations", "rollouts", "held_out", "practice")
"""Prefixes of the stages that take real episodes."""

LEVELS = (1, 2)
"""Levels of the evaluation; those of practice are in [practice]."""
ROLLOUTS_FROM, HELD_OUT_FROM = 100_000, 50_000
"""First seeds of rollouts (training split) and of held-out rollouts (validation split)."""
JUDGED_FROM = 80_000
"""First validation seed of the evaluation before publication. Evaluation seeds decide nothing."""

Outputs = dict[str, Any]
"""The results of a stage for later ones, as plain values."""


@dataclass(frozen=True, kw_only=True)
class PipelineRequest(OnDevice):
    """What a pipeline starts from, and whether its policy is published."""

    out: Path
    """directory of this run"""
    data: tuple[Path, ...] = ()
    """recorded episodes to train on; without --base they replace the demonstrations"""
    base: str = named("policy", "")
    """start from this policy (name, id, directory), not from demonstrations"""
    method: str = field(default="safedojo", metadata={"choices": tuple(METHODS)})
    """training method, see safedojo practice --help"""
    publish: bool = False
    """publish the policy in the checkpoint store if it passes the gates"""
    force: bool = False
    """publish it even if it is worse than the policy that serves, and point 'latest' to it even if
    the preset is smoke"""


@dataclass(frozen=True)
class PipelineResult:
    """passed: all gates; published: the policy's id, "" for none; reason: in words."""

    passed: bool
    published: str
    reason: str


class Models(NamedTuple):
    """Directories of the checkpoints that imagine."""

    world_model: str
    success: str
    safety: str


class GateNotPassed(Exception):
    """A stage ended without a fault, but its result is not good enough for the next one."""


def run_pipeline(
    recipe: "Recipe",
    request: PipelineRequest,
    between: Callable[[int], None] = lambda step: None,
    say: Say = print,
) -> PipelineResult:
    """Run the stages that are left; between: called after every step of a training, may raise.

    Raises `ConfigError` where OUT holds a run with other settings, or another process works there.
    """
    with claim(request.out):
        return _run_stages(recipe, request, between, say)


def _run_stages(
    recipe: "Recipe", request: PipelineRequest, between: Callable[[int], None], say: Say
) -> PipelineResult:
    plan = json.loads(json.dumps(asdict(recipe)))
    del plan["preset"]  # its values are there
    plan |= {
        "data": [str(path) for path in request.data],
        "base": request.base,
        "method": request.method,
    }
    ledger = StageLedger(request.out, plan, between=between)
    pipeline = Pipeline(recipe, request, ledger, say)
    try:
        published, reason = pipeline.run()
        result = PipelineResult(True, published, reason)
    except GateNotPassed as gate:
        result = PipelineResult(False, "", str(gate))
    except SafeDojoError as error:
        ledger.finish(None, f"fault: {error}", **pipeline.summary())
        raise
    ledger.finish(result.published or None, result.reason, **pipeline.summary())
    if result.passed:
        say(result.reason)
    say(pipeline.times())
    return result


class Pipeline:
    """The stages in order; each method runs one and returns what later ones need."""

    def __init__(
        self, recipe: "Recipe", request: PipelineRequest, ledger: StageLedger, say: Say = print
    ) -> None:
        self.recipe, self.request, self.ledger, self.say = recipe, request, ledger, say
        self.config, self.out, self.store = recipe.pipeline, request.out, request.out / "store"
        self.enforced = recipe.practice.preflight.enforced
        self.demonstrations: tuple[Path, ...] = ()
        """Data sets that the policy imitates; none with --base."""
        if not request.base:
            self.demonstrations = request.data or (self.out / "demonstrations",)
        self.keyframes = [self.out / "rollouts", *request.data]
        self.recorded = [
            *self.keyframes,
            *(d for d in self.demonstrations if d not in request.data),
        ]

    def run(self) -> tuple[str, str]:
        """Run all stages: the published id, and the result in words; raises `GateNotPassed`."""
        stage, config = self.ledger.stage, self.config
        if not self.request.base and not self.request.data:
            stage("demonstrations", self.demonstrate)
        base = safe = stage("policy", self.base)["policy"]
        if self.demonstrations and config.safe_steps:
            safe = self.checkpoint("safe_policy", lambda: self.safe_policy(base))
        stage("rollouts", lambda: self.roll_out(base))
        stage("held_out", lambda: self.hold_out(base))
        models = None
        if METHODS[self.request.method].world == "imagination":
            made = self.imagination(base)
            validated = stage("validation", lambda: self.validate(base, made))
            if validated["missed"] and self.enforced:
                missed = "; ".join(validated["missed"])
                raise GateNotPassed(f"the world model missed its bars: {missed}")
            models = made._replace(world_model=validated["checkpoint"])
        trained = stage("practice", lambda: self.practice(safe, models))
        if not trained["completed"]:
            raise GateNotPassed(trained["stopped"])
        figures = stage("evaluation", lambda: self.evaluate(base, trained["policy"]))
        return self.publish(trained["policy"], figures)

    def imagination(self, base: str) -> Models:
        """World model, success classifier and safety head."""
        checkpoint = self.checkpoint
        first = checkpoint("safety", self.first_head)
        world = checkpoint("world_model", lambda: self.world_model(first))
        success = checkpoint("success", lambda: self.success(base, world, first))
        head = checkpoint("safety_head", lambda: self.safety_head(world))
        return Models(world, success, head)

    def checkpoint(self, name: str, train: Callable[[], Trained]) -> str:
        """Directory of the checkpoint that the training stage `name` leaves in OUT/store."""
        made = self.ledger.stage(name, lambda: {"checkpoint": str(train().checkpoint)})
        return str(made["checkpoint"])

    # ---------------------------------------------------------------- stages

    def demonstrate(self) -> Outputs:
        """Record scripted experts."""
        config = self.config
        return self._collect(
            Collection(
                self.out / "demonstrations",
                world=config.world,
                tasks=config.tasks,
                levels=config.demonstration_levels,
                episodes=config.demonstrations,
                style="mixed",
                direct_share=config.direct_share,
                noise=config.demonstration_noise,
                linger=config.demonstration_linger,
                max_steps=config.max_steps,
                image_size=config.image_size,
                only_successes=config.only_successes,
                probes=config.probes,
                players=Players(config.workers),
                resume=True,
            )
        )

    def base(self) -> Outputs:
        """The base policy: the given one, or one that imitates."""
        if self.request.base:
            path = find_checkpoint("policy", self.request.base, self.request.store)
            return {"policy": str(path.resolve())}
        request = TrainPolicy(**self._training("policy", self.demonstrations))
        return {"policy": str(train_policy(self.recipe, request, self.say).checkpoint)}

    def safe_policy(self, base: str) -> Trained:
        """The base policy, fine-tuned on the demonstrations without a contact."""
        config = replace(
            self.recipe.policy,
            only_safe=True,
            steps=self.config.safe_steps,
            learning_rate=self.config.safe_learning_rate,
        )
        request = TrainPolicy(start=base, **self._training("safe_policy", self.demonstrations))
        return train_policy(replace(self.recipe, policy=config), request, self.say)

    def roll_out(self, base: str) -> Outputs:
        """Episodes of the base policy to train the imagined world on."""
        config = self.config
        return self._record(
            "rollouts",
            base,
            episodes=config.rollouts,
            levels=config.rollout_levels,
            noise=config.rollout_noise,
            probes=config.probes,
            players=Players(config.workers),
            seed=ROLLOUTS_FROM,
        )

    def hold_out(self, base: str) -> Outputs:
        """Episodes of the base policy to validate with, without noise."""
        config = self.config
        return self._record(
            "held_out",
            base,
            episodes=config.held_out,
            levels=config.rollout_levels,
            split="validation",
            seed=HELD_OUT_FROM,
        )

    def first_head(self) -> Trained:
        """The autoencoder, and a first safety head of few updates."""
        config = replace(self.recipe.safety, steps=self.config.first_head_steps)
        request = TrainSafety(**self._training("safety", self.recorded))
        return train_safety(replace(self.recipe, safety=config), request, self.say)

    def safety_head(self, world_model: str) -> Trained:
        """The final safety head, trained on imagined states, too."""
        inputs = self._training("safety_head", self.recorded)
        return train_safety(self.recipe, TrainSafety(world_model=world_model, **inputs), self.say)

    def world_model(self, safety: str) -> Trained:
        """The world model, over the autoencoder of `safety`."""
        request = TrainWorldModel(safety=safety, **self._training("world_model", self.recorded))
        return train_world_model(self.recipe, request, self.say)

    def success(self, base: str, world_model: str, safety: str) -> Trained:
        """The success classifier, matched to the base policy's rate of success."""
        request = TrainSuccess(
            world_model=world_model,
            policy=base,
            world=self.config.world,
            played=self.out / "held_out",
            safety=safety,
            **self._training("success", self.recorded),
        )
        return train_success(self.recipe, request, self.say)

    def validate(self, base: str, models: Models) -> Outputs:
        """The fidelity report, with the base policy's rates; publishes the world model with it."""
        made = validate(
            self.recipe,
            Validation(
                data=(self.out / "held_out",),
                out=self.out / "validation",
                policy=base,
                world=self.config.world,
                device=self.request.device,
                store=self.store,
                **models._asdict(),
            ),
            self.say,
        )
        world_model = Path(models.world_model)
        manifest = publish(
            self.store,
            "world_model",
            world_model,
            parent=world_model.name,
            say=self.say,
            **made.details,
        )
        missed = [f"{verdict.description} ({verdict.metric})" for verdict in made.missed]
        for sentence in missed if not self.enforced else ():
            self.say(f"bar missed, not enforced: {sentence}")
        checkpoint = find_checkpoint("world_model", manifest.id, self.store).resolve()
        return {"missed": missed, "checkpoint": str(checkpoint)}

    def practice(self, base: str, models: Models | None) -> Outputs:
        """Practice in OUT/practice; its policy goes into OUT/store."""
        from safedojo_ros.learning.rl.practice import PracticeRefused

        request = self._request("practice", base, models)
        try:
            made = practice(self.recipe, request, say=self.say)
        except PracticeRefused as refused:
            raise GateNotPassed(str(refused)) from None
        outcome = made.outcome
        return {
            "completed": outcome.completed,
            "stopped": outcome.stopped,
            "best": outcome.best,
            "policy": str(made.checkpoint.resolve()),
            "episodes": outcome.real_episodes,
            "collisions": outcome.real_collisions,
        }

    def evaluate(self, base: str, trained: str) -> Outputs:
        """Base and trained policy on the same validation seeds, which no other stage uses."""
        figures = {}
        for name, checkpoint in (("base", base), ("trained", trained)):
            asked = Evaluation(
                checkpoint,
                level=LEVELS,
                world=self.config.world,
                tasks=self._tasks(base),
                episodes=self.config.evaluation,
                split="validation",
                seed=JUDGED_FROM,
                max_steps=self.config.max_steps,
                batch=self.config.batch,
                json=self.out / "evaluation" / f"{name}.json",
            )
            figures[name] = recorded(evaluate(asked).to_json())
        return figures

    def publish(self, policy: str, figures: Outputs) -> tuple[str, str]:
        """Publish in the user's store if SSR rose and CAR did not fall; raises `GateNotPassed`."""
        before, after = figures["base"]["overall"], figures["trained"]["overall"]
        rates = ", ".join(
            f"{rate.upper()} {before[rate]['value']:.1%} → {after[rate]['value']:.1%}"
            for rate in ("ssr", "car", "tsr")
        )
        said = f"{rates} over {after['episodes']} episodes"
        better = after["ssr"]["value"] > before["ssr"]["value"]
        better &= after["car"]["value"] >= before["car"]["value"]
        if not better:
            if self.enforced:
                raise GateNotPassed(f"the trained policy is not safer than its base: {said}")
            self.say(f"not enforced: not safer than its base: {said}")
        if not self.request.publish:
            return "", f"not published, since --publish was not given; {said}"

        def make() -> Outputs:
            made = read_manifest(Path(policy))
            parent = Path(self.ledger.done["policy"]["policy"]).name
            manifest = publish(
                self.request.store,
                "policy",
                Path(policy),
                preset=self.recipe.preset,
                force=self.request.force,
                say=self.say,
                spec=made.spec,
                normalisation=made.normalisation,
                parent=parent if self.request.base else None,
                evaluation={"validation": figures["trained"]},
                fidelity=made.fidelity,
            )
            return {"published": manifest.id}

        try:
            identifier = self.ledger.stage("publication", make)["published"]
        except PublicationRefused as refused:
            raise GateNotPassed(str(refused)) from None
        return identifier, f"published policy {identifier}: {said}"

    # ---------------------------------------------------------------- what was done

    def summary(self) -> Outputs:
        """For result.json: the finished stages, and the real episodes that they took."""
        done = self.ledger.done
        real = [outputs for stage, outputs in done.items() if stage.startswith(REAL)]
        return {
            "stages": list(done),
            "config": asdict(self.config),
            "real_episodes": sum(outputs.get("episodes", 0) for outputs in real),
            "real_collisions": sum(outputs.get("collisions", 0) for outputs in real),
            "evaluation": done.get("evaluation"),
            "enforced": self.enforced,
            "seconds": self.ledger.seconds(),
        }

    def times(self) -> str:
        """How long each stage took, and all that train the imagined world, in one line."""
        minutes = {stage: seconds / 60 for stage, seconds in self.ledger.seconds().items()}
        each = ", ".join(f"{stage} {value:.1f}" for stage, value in minutes.items())
        imagination = sum(v for stage, v in minutes.items() if stage.startswith(IMAGINATION))
        return (
            f"minutes: {each}; in all {sum(minutes.values()):.1f}, of which world model, success "
            f"classifier and safety head {imagination:.1f}"
        )

    # ---------------------------------------------------------------- inputs of stages

    def _training(self, name: str, data: Sequence[Path]) -> dict[str, Any]:
        """The inputs of every training; its result goes into OUT/store."""
        return {
            "data": tuple(data),
            "out": self.out / name,
            "resume": True,
            "device": self.request.device,
            "publish": True,
            "store": self.store,
        }

    def _request(self, name: str, base: str, models: Models | None) -> PracticeRequest:
        inputs = self._training(name, self.keyframes if models else ())
        inputs |= models._asdict() if models else {}
        return PracticeRequest(
            world=self.config.world,
            method=self.request.method,
            base=base,
            demonstrations=self.demonstrations,
            **inputs,
        )

    def _record(self, name: str, policy: str, **options: Any) -> Outputs:
        """Record episodes of a policy in OUT/`name`."""
        return self._collect(
            Collection(
                self.out / name,
                world=self.config.world,
                policy=policy,
                tasks=self._tasks(policy),
                linger=self.config.linger,
                max_steps=self.config.max_steps,
                image_size=self.config.image_size,
                batch=self.config.batch,
                resume=True,
                **options,
            )
        )

    def _collect(self, wanted: Collection) -> Outputs:
        made = collect(wanted, self.say)
        return {"data": str(made.data), "episodes": made.episodes, "collisions": made.collisions}

    def _tasks(self, policy: str) -> tuple[str, ...]:
        from safedojo_ros.models.loading import load_policy

        known = tasks_of(load_policy(Path(policy)), self.config.world)
        return tuple(task for task in known if task in (self.config.tasks or known))
