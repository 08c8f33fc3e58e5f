"""`safedojo pipeline`: from demonstrations to a published policy, every stage in one command.

Stages: demonstrations, policy, the policy taught on by those demonstrations that touch nothing (all
three left out with --base), rollouts of the first policy, held-out rollouts, autoencoder and safety
head, world model, success classifier, the head anew on imagined states, too, validation, practice,
evaluation, publication. Practice begins with the policy that was taught on, and goes on imitating
the same demonstrations (practice.anchor). With pipeline.fresh, practice is tried first: its
policies are recorded where imagination has led them, and world model and success classifier learn
from that, too, before validation. Each stage is what its own command does;
a finished one is never repeated, so the same command goes on after a kill. Intermediate checkpoints
stay in OUT/store.

Exit code 0: done; 3: a gate was not passed; 2: a fault; 130: interrupted, run it again to go on.
OUT/result.json says which id was published, or why none was; the last line, and result.json, how
long each stage took, over all calls.
"""

import argparse
import importlib
import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safedojo_ros.cli.train import READS
from safedojo_ros.core.errors import SafeDojoError
from safedojo_ros.learning.rl.methods import METHODS
from safedojo_ros.pipeline.interruption import Interrupted, interrupt_on_signal

if TYPE_CHECKING:
    from safedojo_ros.learning.rl.practice import PracticeConfig, PracticeOutcome
    from safedojo_ros.pipeline.ledger import StageLedger
    from safedojo_ros.pipeline.recipe import PipelineConfig

DONE, GATE, INTERRUPTED = 0, 3, 130
IMAGINATION = ("safety", "world_model", "success")
"""What the stages begin with that train what practice imagines with."""
PLAYED = ("demonstrations", "rollouts", "held_out", "fresh", "practice")
"""What the stages begin with that play real episodes."""

LEVELS = "I,II"
"""Levels of the evaluation; practice itself begins at those of [practice]."""
JUDGED_FROM = 80_000
"""First of the validation seeds that decide about publication; evaluation seeds decide nothing."""
FRESH_FROM = 300_000
"""First of the training seeds on which policies of a first practice are recorded."""


class GateNotPassed(Exception):
    """A stage ended without a fault, and without what the next one needs."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--preset", default="tiny", help="smoke, tiny, small or a TOML file")
    parser.add_argument("--out", type=Path, required=True, help="directory of this run")
    parser.add_argument(
        "--data", type=Path, nargs="+", default=[], help="recorded episodes to learn from, too"
    )
    parser.add_argument("--base", metavar="CHECKPOINT", help="begin from this policy")
    parser.add_argument("--store", type=Path, help="store to publish to (default: the user's)")
    parser.add_argument("--publish", action="store_true", help="publish what passes the gates")
    parser.add_argument(
        "--method", choices=list(METHODS), default="safedojo", help="see safedojo practice --help"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="change one value of the preset, for instance pipeline.rollouts=500",
    )
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    parser.add_argument("--threads", type=int, default=0, help="torch threads; 0: torch's own")


def run(args: argparse.Namespace) -> int:
    """Do what is left to do."""
    from safedojo_ros.learning.rl.practice import for_method
    from safedojo_ros.models.threads import use_processor
    from safedojo_ros.pipeline.ledger import StageLedger
    from safedojo_ros.pipeline.recipe import read_recipe

    use_processor(args.threads)
    recipe = read_recipe(args.preset, args.set)
    config, practice = recipe.pipeline, for_method(recipe.practice, METHODS[args.method])
    plan = {
        "preset": args.preset,
        "settings": args.set,
        "data": [str(path) for path in args.data],
        "base": args.base,
        "method": args.method,
    }
    ledger = StageLedger(args.out, plan, between=interrupt_on_signal())
    pipeline = Pipeline(args, config, practice, ledger)
    try:
        published, reason = pipeline.run()
    except GateNotPassed as gate:
        ledger.finish(None, str(gate), **pipeline.summary())
        print(pipeline.times())
        print(f"not published: {gate}", file=sys.stderr)
        return GATE
    except (Interrupted, KeyboardInterrupt):
        print(f"interrupted; the same command goes on in {args.out}", file=sys.stderr)
        return INTERRUPTED
    except SafeDojoError as error:
        ledger.finish(None, f"fault: {error}", **pipeline.summary())
        raise
    ledger.finish(published, reason, **pipeline.summary())
    print(reason)
    print(pipeline.times())
    return DONE


class Pipeline:
    """The stages in their order; each method makes one and returns what later ones need."""

    def __init__(
        self,
        args: argparse.Namespace,
        config: "PipelineConfig",
        practice: "PracticeConfig",
        ledger: "StageLedger",
    ) -> None:
        self.args, self.config, self.practice, self.ledger = args, config, practice, ledger
        self.out: Path = args.out
        self.store = self.out / "store"
        self.enforced = practice.preflight.enforced
        self.keyframes = [self.out / "rollouts", *args.data]
        self.world_model = self.out / "world_model"
        self.taught: list[Path] = []
        """What the policy imitates; nothing, where it is given."""
        if not args.base:
            self.taught = args.data or [self.out / "demonstrations"]

    def run(self) -> tuple[str | None, str]:
        """All stages; the published id, and in words what came out. Raises `GateNotPassed`."""
        stage, config = self.ledger.stage, self.config
        demonstrations = [self.out / "demonstrations"] if self._demonstrate else []
        if self._demonstrate:
            stage("demonstrations", self.demonstrations)
        base = safe = stage("policy", self.base)["policy"]
        if self.taught and config.safe_steps:
            safe = stage("safe_policy", lambda: self.safe(base))["checkpoint"]
        recorded = [self.out / "rollouts", *self.args.data, *demonstrations]
        levels = ",".join(map(str, config.rollout_levels))
        rollouts = {"levels": levels, "noise": config.rollout_noise}
        stage("rollouts", lambda: self.collect("rollouts", base, config.rollouts, rollouts))
        held = {"levels": levels, "split": "validation", "seed": 50_000}
        stage("held_out", lambda: self.collect("held_out", base, config.held_out, held))
        if METHODS[self.args.method].world == "imagination":
            short = ("--set", f"safety.steps={config.first_head_steps}")
            stage("safety", lambda: self.train("safety", recorded, *short))
            stage("world_model", lambda: self.train("world-model", recorded))
            stage("success", lambda: self.success(base, recorded, self.out / "success"))
            dreams = ("--world-model", "latest")
            head = self.out / "safety_head"
            stage("safety_head", lambda: self.train("safety", recorded, *dreams, out=head))
            if config.fresh:
                self._try_practice(base, safe, recorded)
            missed = stage("validation", lambda: self.validation(base))["missed"]
            if missed and self.enforced:
                raise GateNotPassed("the world model missed its bars: " + "; ".join(missed))
        practised = stage("practice", lambda: self.practise(safe))
        if not practised["completed"]:
            raise GateNotPassed(practised["stopped"])
        figures = stage("evaluation", lambda: self.evaluate(base, practised["policy"]))
        return self.publish(practised["policy"], figures)

    def _try_practice(self, base: str, safe: str, recorded: list[Path]) -> None:
        """Practise from `safe`, see what that has taught, and learn from it.

        No gate is asked: where imagination is wrong, its policies are the ones to show it. The
        safety head stays as it is: what it has learned from unsafe episodes is worth more at
        levels where nobody practised.
        """
        stage = self.ledger.stage
        tried = stage("first_practice", lambda: self.first_practice(safe))["policies"]
        stage("fresh", lambda: self.fresh(tried))
        seen = [self.out / "fresh" / update for update in tried]
        recorded += seen
        self.keyframes += seen
        steps, rate = self.config.fresh_steps, self.config.fresh_learning_rate
        more = ["--start", "latest", "--set", f"world_model.steps={steps}"]
        more += ["--set", f"world_model.learning_rate={rate}"]
        self.world_model = self.out / "world_model_again"
        stage(
            self.world_model.name,
            lambda: self.train("world-model", recorded, *more, out=self.world_model),
        )
        success = self.out / "success_again"
        stage(success.name, lambda: self.success(base, recorded, success))

    @property
    def _demonstrate(self) -> bool:
        return not self.args.base and not self.args.data

    # ---------------------------------------------------------------- stages

    def demonstrations(self) -> dict[str, Any]:
        """Scripted experts; most ignore the obstacle."""
        config, out = self.config, self.out / "demonstrations"
        self._command(
            "collect", "--out", out, "--episodes", config.demonstrations, "--style", "mixed",
            "--direct-share", config.direct_share, "--noise", config.demonstration_noise,
            "--linger", config.demonstration_linger,
            "--max-steps", config.max_steps, "--workers", config.workers, "--resume",
            "--image-size", config.image_size,
            *(["--only-successes"] if config.only_successes else []),
        )  # fmt: skip
        return {"data": str(out)} | real_episodes(out)

    def base(self) -> dict[str, Any]:
        """The policy to begin from: given, or imitated."""
        from safedojo_ros.checkpoints.names import find_checkpoint

        if self.args.base:
            path = find_checkpoint("policy", self.args.base, self.args.store)
            return {"policy": str(path.resolve())}
        return {"policy": self.train("policy", self.taught)["checkpoint"]}

    def safe(self, base: str) -> dict[str, Any]:
        """The base, taught on by demonstrations without a contact alone."""
        config = self.config
        settings = {
            "only_safe": "true",
            "steps": config.safe_steps,
            "learning_rate": config.safe_learning_rate,
        }
        changed = [text for k, v in settings.items() for text in ("--set", f"policy.{k}={v}")]
        out = self.out / "safe_policy"
        return self.train("policy", self.taught, "--start", base, *changed, out=out)

    def collect(
        self, name: str, base: str, episodes: int, options: dict[str, Any]
    ) -> dict[str, Any]:
        """Episodes of the base policy into OUT/`name`."""
        config = self.config
        settings: dict[str, Any] = {"seed": 100_000} | options
        self._command(
            "collect", "--out", self.out / name, "--policy", base, "--episodes", episodes,
            "--linger", config.linger, "--max-steps", config.max_steps, "--batch", 32, "--resume",
            "--tasks", self._tasks(base), "--image-size", config.image_size,
            *_options(settings),
        )  # fmt: skip
        return {"data": str(self.out / name)} | real_episodes(self.out / name)

    def train(
        self, kind: str, data: list[Path], *options: str, out: Path | None = None
    ) -> dict[str, Any]:
        """One stage of `safedojo train` into `out` (OUT/<kind>), published in OUT/store."""
        out = out or self.out / kind.replace("-", "_")
        self._command(
            "train", kind, "--data", *data, "--out", out, "--preset", self.args.preset,
            "--resume", "--device", self.args.device, "--publish", "--store", self.store,
            *self._settings(*READS[kind]), *options,
        )  # fmt: skip
        return {"checkpoint": str(self._latest(kind.replace("-", "_")))}

    def success(self, base: str, recorded: list[Path], out: Path) -> dict[str, Any]:
        """The success classifier for the newest world model, matched to what the base achieves."""
        played = ("--policy", base, "--played", str(self.out / "held_out"))
        return self.train("success", recorded, "--world-model", "latest", *played, out=out)

    def validation(self, base: str) -> dict[str, Any]:
        """Fidelity report, with the base policy's rates; the world model is published with it."""
        from safedojo_ros.checkpoints.store.store import CheckpointStore

        out = self.out / "validation"
        self._command(
            "validate", "--data", self.out / "held_out", "--policy", base, "--out", out, "--preset",
            self.args.preset, "--device", self.args.device, "--store", self.store,
            *self._settings("validation"), allowed=(0, GATE),
        )  # fmt: skip
        details = json.loads((out / "details.json").read_text())
        parent = CheckpointStore(self.store).latest("world_model")
        CheckpointStore(self.store).publish(
            "world_model", self.world_model / "checkpoint", parent=parent, **details
        )
        missed = [bar for bar in details["fidelity"]["bars"] if not bar["passed"]]
        sentences = [f"{bar['description']} ({bar['metric']})" for bar in missed]
        for sentence in sentences if not self.enforced else []:
            print(f"bar missed, not enforced at preset {self.args.preset}: {sentence}")
        return {"missed": sentences}

    def first_practice(self, base: str) -> dict[str, Any]:
        """Practice without gates in OUT/first_practice; what it measured goes into OUT/store."""
        from safedojo_ros.cli import practice as command

        free = replace(self.practice, preflight=replace(self.practice.preflight, enforced=False))
        args, outcome = self._practise("first_practice", base, free)
        policies = {}
        for update in [row["step"] for row in outcome.evaluations if row["step"]]:
            policy = args.out / "policies" / str(update)
            one = command.publish(args, free, replace(outcome, best=update, policy=policy))
            policies[str(update)] = str(self.store / "policy" / one)
        return {"policies": policies}

    def fresh(self, policies: dict[str, str]) -> dict[str, Any]:
        """Episodes of each policy (number of updates: checkpoint) into OUT/fresh/<updates>."""
        each = max(1, self.config.fresh // len(policies))
        levels = ",".join(str(level) for level in self.practice.levels)
        counts = {"episodes": 0, "collisions": 0}
        for n, (update, policy) in enumerate(policies.items()):
            seed = FRESH_FROM + n * each
            options = {"levels": levels, "noise": self.config.rollout_noise, "seed": seed}
            played = self.collect(f"fresh/{update}", policy, each, options | self._executed())
            counts = {what: counts[what] + played[what] for what in counts}
        return counts

    def practise(self, base: str) -> dict[str, Any]:
        """`safedojo practice`, with checkpoints of OUT/store."""
        from safedojo_ros.cli import practice as command

        args, outcome = self._practise("practice", base, self.practice)
        for sentence in outcome.unenforced:
            print(f"not enforced at preset {self.args.preset}: {sentence}")
        published = command.publish(args, self.practice, outcome)
        command.write_result(args, self.practice, outcome, published)
        return {
            "completed": outcome.completed,
            "stopped": outcome.stopped,
            "best": outcome.best,
            "policy": str(self.store / "policy" / published),
            "episodes": outcome.real_episodes,
            "collisions": outcome.real_collisions,
        }

    def _practise(
        self, name: str, base: str, config: "PracticeConfig"
    ) -> "tuple[argparse.Namespace, PracticeOutcome]":
        """A run in OUT/`name`: its options and how it ended; raises `GateNotPassed`."""
        from safedojo_ros.cli import practice as command
        from safedojo_ros.learning.rl.practice import PracticeRefused

        args = self._parsed(
            "practice", "--method", self.args.method, "--base", base, "--out", self.out / name,
            "--data", *self.keyframes, "--preset", self.args.preset, "--resume", "--device",
            self.args.device, "--publish", "--store", self.store, *self._settings("practice"),
            *(["--demonstrations", *self.taught] if self.taught else []),
        )  # fmt: skip
        try:
            return args, command.practise(args, config, lambda: False)
        except PracticeRefused as refused:
            raise GateNotPassed(str(refused)) from None

    def evaluate(self, base: str, practised: str) -> dict[str, Any]:
        """Base and practised policy on the same validation seeds, which nothing else has seen."""
        figures = {}
        for name, checkpoint in (("base", base), ("practised", practised)):
            path = self.out / "evaluation" / f"{name}.json"
            self._command(
                "evaluate", "--checkpoint", checkpoint, "--level", LEVELS, "--episodes",
                self.config.evaluation, "--max-steps", self.config.max_steps, "--batch", 32,
                "--tasks", self._tasks(base), "--split", "validation", "--seed", JUDGED_FROM,
                "--json", path, *_options(self._executed()),
            )  # fmt: skip
            report = json.loads(path.read_text())
            figures[name] = {"overall": report["overall"], "levels": report["levels"]}
        return figures

    def publish(self, policy: str, figures: dict[str, Any]) -> tuple[str | None, str]:
        """Into the user's store, if it is safer and no less able; raises `GateNotPassed`."""
        from safedojo_ros.checkpoints.manifest import read_manifest
        from safedojo_ros.checkpoints.names import user_store
        from safedojo_ros.checkpoints.store.store import CheckpointStore

        before, after = figures["base"]["overall"], figures["practised"]["overall"]
        said = (
            f"SSR {before['ssr']['value']:.1%} → {after['ssr']['value']:.1%}, CAR "
            f"{before['car']['value']:.1%} → {after['car']['value']:.1%}, TSR "
            f"{before['tsr']['value']:.1%} → {after['tsr']['value']:.1%} over "
            f"{after['episodes']} episodes"
        )
        better = after["ssr"]["value"] > before["ssr"]["value"]
        better &= after["car"]["value"] >= before["car"]["value"]
        if not better:
            if self.enforced:
                raise GateNotPassed(f"the practised policy is not safer than its base: {said}")
            print(f"not enforced at preset {self.args.preset}: not safer than its base: {said}")
        if not self.args.publish:
            return None, f"not published, since --publish was not given; {said}"

        def make() -> dict[str, Any]:
            made = read_manifest(Path(policy))
            store = CheckpointStore(self.args.store) if self.args.store else user_store()
            parent = Path(self.ledger.done["policy"]["policy"]).name
            manifest = store.publish(
                "policy",
                Path(policy),
                spec=made.spec,
                normalisation=made.normalisation,
                parent=parent if self.args.base else None,
                evaluation={"validation": figures["practised"]},
                fidelity=made.fidelity,
            )
            return {"published": manifest.id}

        identifier = self.ledger.stage("publication", make)["published"]
        return identifier, f"published policy {identifier}: {said}"

    def summary(self) -> dict[str, Any]:
        """For result.json: the stages that are done, and what learning cost in the real world."""
        done = self.ledger.done
        played = [outputs for stage, outputs in done.items() if stage.startswith(PLAYED)]
        return {
            "stages": list(done),
            "config": asdict(self.config),
            "real_episodes": sum(outputs.get("episodes", 0) for outputs in played),
            "real_collisions": sum(outputs.get("collisions", 0) for outputs in played),
            "evaluation": done.get("evaluation"),
            "enforced": self.enforced,
            "seconds": self.ledger.seconds(),
        }

    def times(self) -> str:
        """How long each stage took, and what imagination needs before practice, in one line."""
        minutes = {stage: seconds / 60 for stage, seconds in self.ledger.seconds().items()}
        each = ", ".join(f"{stage} {value:.1f}" for stage, value in minutes.items())
        dream = sum(value for stage, value in minutes.items() if stage.startswith(IMAGINATION))
        return (
            f"minutes: {each}; in all {sum(minutes.values()):.1f}, of which world model and its "
            f"readers {dream:.1f}"
        )

    # ---------------------------------------------------------------- inside

    def _settings(self, *sections: str) -> list[str]:
        mine = [text for text in self.args.set if text.partition(".")[0] in sections]
        return [text for setting in mine for text in ("--set", setting)]

    def _tasks(self, policy: str) -> str:
        from safedojo_ros.models.loading import load_policy
        from safedojo_ros.pipeline.scenes import tasks_of

        return ",".join(tasks_of(load_policy(Path(policy))))

    def _latest(self, kind: str) -> Path:
        from safedojo_ros.checkpoints.names import find_checkpoint

        return find_checkpoint(kind, "latest", self.store).resolve()

    def _parsed(self, command: str, *arguments: Any) -> argparse.Namespace:
        module = importlib.import_module(f"safedojo_ros.cli.{command}")
        parser = argparse.ArgumentParser(prog=f"safedojo {command}")
        module.configure(parser)
        return parser.parse_args([str(a) for a in arguments])

    def _executed(self) -> dict[str, Any]:
        """The option by which practised policies play as they practised; none: whole chunks."""
        return {"execute": self.practice.execute} if self.practice.execute else {}

    def _command(self, command: str, *arguments: Any, allowed: tuple[int, ...] = (0,)) -> None:
        """Run another command of this package here; raises `GateNotPassed` for its exit code."""
        print(f"safedojo {command} {' '.join(str(a) for a in arguments)}", flush=True)
        module = importlib.import_module(f"safedojo_ros.cli.{command}")
        code = module.run(self._parsed(command, *arguments))
        if code not in allowed:
            raise GateNotPassed(f"safedojo {command} ended with exit code {code}")


def real_episodes(data: Path) -> dict[str, int]:
    """How many episodes a data set has, and in how many something was hit."""
    from safedojo_ros.data.lerobot.reader import EpisodeReader

    rows = EpisodeReader(data).rows
    hit = sum(row.touched for row in rows)
    return {"episodes": len(rows), "collisions": hit}


def _options(values: dict[str, Any]) -> list[Any]:
    """{"seed": 3} as the command line has it: --seed 3."""
    return [text for name, value in values.items() for text in (f"--{name}", value)]
