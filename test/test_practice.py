"""Practice end to end at smoke size: pre-flight, resuming, gates, rolling back, methods."""

import argparse
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from safedojo_ros.checkpoints.manifest import verify
from safedojo_ros.cli import practice as command
from safedojo_ros.core.errors import ConfigError
from safedojo_ros.core.types import Observation
from safedojo_ros.data.lerobot.reader import EpisodeReader
from safedojo_ros.data.lerobot.writer import EpisodeWriter
from safedojo_ros.evaluation.protocol import EvaluationReport, TrialResult
from safedojo_ros.evaluation.recording import record_expert
from safedojo_ros.evaluation.statistics import wilson
from safedojo_ros.fidelity.gates import missed_gates
from safedojo_ros.fidelity.thresholds import FidelityBars, judge
from safedojo_ros.learning.imitation import Demonstrations
from safedojo_ros.learning.rl.anchor import Anchor, AnchorConfig
from safedojo_ros.learning.rl.constrained_grpo import ConstrainedGRPO
from safedojo_ros.learning.rl.imagined_world import ImaginedWorld
from safedojo_ros.learning.rl.methods import METHODS
from safedojo_ros.learning.rl.multiplier import MultiplierConfig
from safedojo_ros.learning.rl.practice import (
    Practice,
    PracticeConfig,
    PracticeRefused,
    SimulatorConfig,
    for_method,
    gap,
)
from safedojo_ros.learning.rl.preflight import PreflightConfig, check_rollouts
from safedojo_ros.learning.rl.rollout import roll_out
from safedojo_ros.learning.rl.starts import (
    KeyframeStarts,
    SimulatorStarts,
    recorded_keyframes,
)
from safedojo_ros.models.flow_sde import StochasticFlow
from safedojo_ros.models.loading import load_policy
from safedojo_ros.models.normalisation import unit_scales
from safedojo_ros.models.pi0_policy import tiny_policy
from safedojo_ros.models.safety_head import tiny_safety
from safedojo_ros.models.success_classifier import tiny_success
from safedojo_ros.models.world_model import WorldModel, WorldModelSize
from safedojo_ros.pipeline.collect import COLLECTION_PATH
from safedojo_ros.pipeline.practice import PracticeRequest, data_cost
from safedojo_ros.pipeline.publication import PublicationRefused
from safedojo_ros.pipeline.recipe import read_recipe
from safedojo_ros.worlds.tabletop.tasks import TASKS
from safedojo_ros.worlds.tabletop.world import TabletopWorld
from safedojo_ros.worlds.vector import ChunkOutcome, VectorWorld
from safedojo_ros.worlds.world import Scene

SENTENCES = tuple(task.instruction for task in TASKS.values())
SMOKE = read_recipe("smoke").practice
SAFEDOJO = METHODS["safedojo"]


class CoinWorld:
    """Success and contact by the sign of two numbers of the first action, whatever the images."""

    contact_threshold = 0.5
    others = ()

    def __init__(self, real: bool = False, contact: float | None = None) -> None:
        self.real, self.contact, self.starts = real, contact, 0
        rng = np.random.default_rng(0)
        image = rng.integers(0, 255, (64, 64, 3), np.uint8)
        images = {"agentview": image, "wrist": image}
        self.seen = [Observation(images, np.zeros(8), SENTENCES[0])] * 4

    def start(self, update: int) -> list[Observation]:
        self.starts += 1
        return self.seen

    def step(self, chunks: np.ndarray, steps: int) -> ChunkOutcome:
        chunks = chunks[:, :steps]
        success = (chunks[..., 0] > 0).astype(float)
        cost = 1 / (1 + np.exp(-300 * chunks[..., 1]))
        if self.contact is not None:
            cost[:] = self.contact
        valid = np.ones(success.shape, dtype=bool)
        return ChunkOutcome(self.seen, success, cost, 0 * cost, valid, np.zeros(4, dtype=bool))


def report(success: float = 0.5, contact: float = 0.5, count: int = 40) -> EvaluationReport:
    results = [
        TrialResult(
            i, "cube_on_plate", 1, i < success * count, False, 9, i >= (1 - contact) * count, 0.0
        )
        for i in range(count)
    ]
    return EvaluationReport("p", "tabletop", {"max_steps": 16}, results)


def run(
    directory: Path,
    world: Any = None,
    measure: Callable[[Any], EvaluationReport] = lambda policy: report(),
    config: PracticeConfig = SMOKE,
    method: str = "safedojo",
    **options: Any,
) -> Practice:
    policy = StochasticFlow(tiny_policy(0, SENTENCES), config.flow)
    config, chosen = for_method(config, METHODS[method]), METHODS[method]
    return Practice(config, chosen, policy, world or CoinWorld(), measure, directory, **options)


def enforced(**changes: Any) -> PracticeConfig:
    return replace(SMOKE, preflight=PreflightConfig(), **changes)


# -------------------------------------------------------------------- running


def test_a_critic_begins_alike_whatever_was_drawn_before(tmp_path: Path) -> None:
    def weights(name: str, draws: int, seed: int = 0) -> torch.Tensor:
        torch.rand(draws)
        practice = run(tmp_path / name, config=replace(SMOKE, seed=seed), method="ppo")
        assert practice.learner.critic is not None
        return torch.cat([p.flatten() for p in practice.learner.critic.parameters()])

    assert torch.equal(weights("a", 1), weights("b", 2))
    assert not torch.equal(weights("c", 1), weights("d", 1, seed=1))


def test_a_run_updates_measures_and_keeps_the_best_measured_policy(tmp_path: Path) -> None:
    quality = iter([0.4, 0.6, 0.5])
    outcome = run(tmp_path, measure=lambda policy: report(next(quality), 0.0)).run()
    assert outcome.completed
    assert [row["step"] for row in outcome.evaluations] == [0, 1, 2]
    assert outcome.best == 1
    assert load_policy(outcome.policy).chunk_length == 8
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2]
    assert {"reward", "multiplier", "violations", "kl", "gradient_norm"} <= rows[0].keys()


def test_a_stopped_run_goes_on_as_if_it_had_never_stopped(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole")
    whole.run()
    asked = iter([False, True])
    first = run(tmp_path / "parts", stop=lambda: next(asked)).run()
    assert not first.completed
    assert "continue with --resume" in first.stopped
    # a line of an update that was never saved, as after kill -9
    with (tmp_path / "parts" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "reward": 9}\n{"step": 3, "rew')
    world = CoinWorld()
    rest = run(tmp_path / "parts", world, resume=True)
    assert rest.run().completed
    assert world.starts == 1
    for one, other in zip(
        whole.policy.policy.network.parameters(),  # type: ignore[attr-defined]
        rest.policy.policy.network.parameters(),  # type: ignore[attr-defined]
        strict=True,
    ):
        torch.testing.assert_close(one, other)
    assert rest.learner.multiplier.value == whole.learner.multiplier.value
    steps = [json.loads(x)["step"] for x in (tmp_path / "parts/metrics.jsonl").open()]
    assert steps == [1, 2]


def test_what_is_kept_may_be_a_blend_of_base_and_trained_weights(tmp_path: Path) -> None:
    some = replace(SMOKE, blend=0.25, updates=1)
    # half a run, then the rest: the base is the policy that was given, not what was restored
    run(tmp_path, config=some).run()
    practice = run(tmp_path, config=replace(some, updates=2), resume=True)
    practice.run()
    trained = weights(practice.policy.policy.network)  # type: ignore[attr-defined]
    base = weights(tiny_policy(0, SENTENCES).network)
    kept = weights(load_policy(tmp_path / "policies" / "2").network)
    assert torch.any(trained != base)
    torch.testing.assert_close(kept, 0.75 * base + 0.25 * trained)
    with pytest.raises(ConfigError, match="blend is 0"):
        replace(SMOKE, blend=0.0)


def test_a_finished_run_is_not_begun_again_by_accident(tmp_path: Path) -> None:
    run(tmp_path).run()
    with pytest.raises(ConfigError, match="pass --resume"):
        run(tmp_path)


def test_real_episodes_and_collisions_are_counted_in_the_real_world_alone(tmp_path: Path) -> None:
    real = run(tmp_path / "real", CoinWorld(real=True, contact=1.0)).run()
    assert (real.real_episodes, real.real_collisions) == (8, 8)
    imagined = run(tmp_path / "imagined", CoinWorld(contact=1.0)).run()
    assert (imagined.real_episodes, imagined.real_collisions) == (0, 0)


# -------------------------------------------------------------------- gates


def test_flat_reward_and_cost_stop_the_run_before_the_first_update(tmp_path: Path) -> None:
    class Flat(CoinWorld):
        def step(self, chunks: np.ndarray, steps: int) -> ChunkOutcome:
            outcome = super().step(chunks, steps)
            outcome.success[:], outcome.cost[:] = 0.0, 0.2
            return outcome

    practice = run(tmp_path, Flat(), lambda policy: report(0.0, 0.0), enforced())
    with pytest.raises(
        PracticeRefused, match=r"reward differs in 0% of 2 groups.*cost differs in 0% of 2"
    ):
        practice.run()
    assert practice.metrics == []


def test_a_likelihood_that_is_not_that_of_sampling_is_found_out() -> None:
    policy = StochasticFlow(tiny_policy(0, SENTENCES), SMOKE.flow)
    learner = ConstrainedGRPO(policy, SMOKE.update, MultiplierConfig(), SAFEDOJO)
    world = CoinWorld()
    groups = np.array([0, 0, 1, 1])
    rollouts = roll_out(policy, world, lambda: world.start(0), groups, 2, (0,))
    config = PreflightConfig(reward_share=0.0, cost_share=0.0)
    assert check_rollouts(learner, rollouts, config) == []
    rollouts.sample.log_prob.add_(0.1)
    assert "do not agree" in check_rollouts(learner, rollouts, config)[0]


def test_missed_gates_stop_the_run_or_are_reported_where_they_are_not_enforced(
    tmp_path: Path,
) -> None:
    missed = ["the world model is worse than copying the last frame"]
    with pytest.raises(PracticeRefused, match="worse than copying"):
        run(tmp_path / "a", config=enforced(), missed_gates=missed).run()
    assert missed[0] in run(tmp_path / "b", missed_gates=missed).run().unenforced


def test_gates_are_read_from_the_manifests() -> None:
    readers = {"success": "s1", "safety": "h1"}
    horizon = {"mse": [0.02, 0.0, 0.0], "copying": [0.01, 0.0, 0.0]}
    trained: dict[str, dict[str, Any]] = {"world_model": {"by_horizon": [horizon]}}
    trained["safety"] = {"auroc": 0.5}
    sentences = missed_gates(trained, readers)
    assert "run safedojo validate" in sentences[0]
    assert len(sentences) == 3  # and copying, and AUROC
    verdicts = judge(FidelityBars(), {"copying_over_mse_8": 9.0, "state_cm_8": 9.0}, rates=False)
    bars = [{k: v for k, v in asdict(verdict).items() if v is not None} for verdict in verdicts]
    validated = {"world_model": {"bars": bars, "checkpoints": readers}}
    sentences = missed_gates(validated, readers)
    assert "run safedojo validate --policy" in sentences[0]
    with_policy = judge(FidelityBars(), {"violation_r": 0.7}, rates=True)
    measured = {"bars": [asdict(verdict) for verdict in with_policy], "checkpoints": readers}
    told = missed_gates({"world_model": measured}, readers)
    assert not any("--policy" in sentence or "violation_r" in sentence for sentence in told)
    assert not any("copying_over_mse_8" in sentence for sentence in sentences)
    assert any("state_cm_8" in sentence for sentence in sentences)
    assert any("could not be measured" in sentence for sentence in sentences)
    assert (
        "validated with safety h1, not h2" in missed_gates(validated, readers | {"safety": "h2"})[0]
    )


def test_imagination_that_parts_from_measurement_stops_the_run_and_rolls_back(
    tmp_path: Path,
) -> None:
    """In practice, contact 0.2 a step is no violation; measured: at first none either, then all."""
    measured = iter([report(0.5, 0.0), report(0.5, 1.0)])
    config = enforced(gap_bar=0.5)
    policy = run(
        tmp_path,
        CoinWorld(contact=0.2),
        lambda policy: next(measured),
        replace(config, preflight=PreflightConfig(reward_share=0.0, cost_share=0.0)),
    )
    outcome = policy.run()
    assert not outcome.completed
    assert "violations is 0.00 in practice and 1.00" in outcome.stopped
    assert outcome.best == 0
    assert outcome.policy.name == "0"


def test_a_base_whose_imagined_rates_are_wrong_is_refused(tmp_path: Path) -> None:
    practice = run(tmp_path, CoinWorld(contact=0.9), lambda policy: report(0.5, 0.0), enforced())
    with pytest.raises(PracticeRefused, match="improve world model and heads"):
        practice.run()


def test_a_rate_inside_the_interval_has_no_gap() -> None:
    measured = wilson(5, 20)
    assert gap(0.25, measured) == 0.0
    assert gap(0.9, measured) == pytest.approx(0.9 - measured.high)
    assert gap(0.0, measured) == pytest.approx(measured.low)


# -------------------------------------------------------------------- methods and worlds


@pytest.mark.parametrize("method", list(METHODS))
def test_every_method_is_a_configuration_of_the_trainer(method: str, tmp_path: Path) -> None:
    chosen = METHODS[method]
    real = chosen.world == "simulator"
    config = replace(SMOKE, updates=1, simulator=SimulatorConfig(0, 0, 0))
    practice = run(tmp_path, CoinWorld(real=real), config=config, method=method)
    assert (practice.learner.critic is not None) == (chosen.baseline == "critic")
    outcome = practice.run()
    assert outcome.completed
    assert (practice.metrics[0]["multiplier"] > 0) == chosen.constrained
    assert (practice.metrics[0]["reward"] > 0) == chosen.rewarded
    initial = config.multiplier.initial
    assert (practice.metrics[0]["multiplier"] == initial) == chosen.fixed_multiplier


def test_the_command_offers_every_method() -> None:
    parser = argparse.ArgumentParser()
    command.configure(parser)
    assert f"{{{','.join(METHODS)}}}" in parser.format_help().replace("\n", "").replace(" ", "")


def test_without_a_task_head_only_cost_is_asked_for_and_only_cost_teaches() -> None:
    policy = StochasticFlow(tiny_policy(0, SENTENCES), SMOKE.flow)
    learner = ConstrainedGRPO(policy, SMOKE.update, MultiplierConfig(), METHODS["no-task"])
    groups = np.array([0, 0, 1, 1])

    def kept(contact: float | None) -> float:
        world = CoinWorld(contact=contact)
        rollouts = roll_out(policy, world, lambda: world.start(0), groups, 2, (0,))
        failed = check_rollouts(learner, rollouts, PreflightConfig(reward_share=1.0))
        assert not any("reward" in sentence for sentence in failed)
        return learner.update(rollouts, (0,))["groups_kept"]

    assert kept(contact=None) > 0.0
    assert kept(contact=0.2) == 0.0


def test_a_run_in_the_simulator_ends_with_its_budget_of_real_episodes(tmp_path: Path) -> None:
    config = replace(SMOKE, updates=9, real_episodes=11, simulator=SimulatorConfig(0, 0, 0))
    outcome = run(tmp_path / "a", CoinWorld(real=True), config=config, method="grpo").run()
    assert outcome.completed
    assert outcome.real_episodes == 8  # two updates of four; a third would be one too many
    assert [row["step"] for row in outcome.evaluations] == [0, 1, 2]
    assert for_method(replace(config, real_episodes=0), METHODS["grpo"]).updates == 9
    assert for_method(config, METHODS["wmpo"]).updates == 9
    with pytest.raises(ConfigError, match="real_episodes is 3, an update takes 4"):
        for_method(replace(config, real_episodes=3), METHODS["grpo"])
    with pytest.raises(ConfigError, match="real_episodes is -1"):
        replace(config, real_episodes=-1)


def test_in_the_simulator_updates_may_be_of_another_size() -> None:
    config = replace(SMOKE, simulator=SimulatorConfig(updates=9, groups=3, minibatch=16))
    for chosen in METHODS.values():
        given = for_method(config, chosen)
        sizes = (given.updates, given.groups, given.update.minibatch)
        same = (SMOKE.updates, SMOKE.groups, SMOKE.update.minibatch)
        assert sizes == ((9, 3, 16) if chosen.world == "simulator" else same)
    with pytest.raises(ConfigError, match="groups is -1"):
        SimulatorConfig(groups=-1)


def test_dropped_episodes_of_a_data_set_have_been_played_too(tmp_path: Path, dataset: Path) -> None:
    rows = EpisodeReader(dataset).rows
    touched = sum(row.collided or row.contact_steps > 0 for row in rows)
    assert data_cost([dataset, dataset]) == {"episodes": 8, "collisions": 2 * touched}
    copy = tmp_path / "copy"
    shutil.copytree(dataset, copy)
    (copy / COLLECTION_PATH).write_text('{"played": 9}')
    assert data_cost([copy])["episodes"] == 9


def test_a_group_of_one_teaches_nothing_without_a_critic() -> None:
    with pytest.raises(ConfigError, match="a group needs 2"):
        for_method(replace(SMOKE, group_size=1), METHODS["grpo"])
    assert for_method(replace(SMOKE, group_size=1), METHODS["ppo"]).group_size == 1


def test_the_simulator_gives_every_member_of_a_group_the_same_training_scene() -> None:
    starts = SimulatorStarts(VectorWorld(max_steps=16), ["cube_on_plate"], [1], 2, 2, 0)
    seen = starts.start(0)
    np.testing.assert_array_equal(seen[0].images["agentview"], seen[1].images["agentview"])
    assert (seen[0].images["agentview"] != seen[2].images["agentview"]).any()
    again = starts.start(0)
    np.testing.assert_array_equal(seen[3].images["wrist"], again[3].images["wrist"])
    other = starts.start(1)
    assert (seen[0].images["agentview"] != other[0].images["agentview"]).any()


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("practice") / "data"
    world = TabletopWorld(max_steps=12)
    with EpisodeWriter(root, 64, ("agentview", "wrist")) as writer:
        for seed in range(4):
            task = list(TASKS)[seed % 2]
            writer.add(record_expert(world, "direct", Scene(seed, task, seed % 2)))
    return root


def imagination() -> ImaginedWorld:
    safety = tiny_safety()
    torch.manual_seed(0)
    size = WorldModelSize(heads=2, head_dim=16, layers=1, feed_forward=32, denoising_steps=1)
    model = WorldModel(safety.autoencoder, size, unit_scales())
    return ImaginedWorld(model, tiny_success(0, SENTENCES), safety, max_steps=16)


def test_keyframes_take_turns_and_repeat_with_the_seed(dataset: Path) -> None:
    world = imagination()
    keyframes = recorded_keyframes(world.world_model, [dataset], [0, 1], [])
    assert len(keyframes) == 4
    assert len(recorded_keyframes(world.world_model, [dataset], [1], [])) == 2
    starts = KeyframeStarts(world, keyframes, 2, 3, 0)
    first, second = starts.start(0), starts.start(1)
    states = {o.state.tobytes() for o in [*first, *second]}
    assert len(states) == 4  # two updates of two groups: each keyframe once
    assert len({o.state.tobytes() for o in first[:3]}) == 1
    chunks = np.random.default_rng(0).normal(0, 0.01, (6, 8, 7))
    starts.start(0)
    one = starts.step(chunks, 8)
    starts.start(0)
    np.testing.assert_array_equal(one.frames, starts.step(chunks, 8).frames)
    with pytest.raises(ConfigError, match="collect some"):
        recorded_keyframes(world.world_model, [dataset], [2], [])


def test_practice_goes_on_imitating_its_anchor(dataset: Path, tmp_path: Path) -> None:
    data = Demonstrations.read([dataset])
    config = replace(SMOKE, update=replace(SMOKE.update, learning_rate=1e-3))

    def trained(name: str, anchored: bool, **options: Any) -> Practice:
        practice = run(tmp_path / name, config=config, resume=True, **options)
        if anchored:
            practice.learner.anchor = anchor(practice)
        practice.run()
        return practice

    def anchor(practice: Practice) -> Anchor:
        policy: Any = practice.policy.policy
        return Anchor(AnchorConfig(weight=30.0), policy, data)

    def misfit(practice: Practice) -> float:
        return float(anchor(practice).loss(np.random.default_rng(5)).detach())

    free, held = trained("free", False), trained("held", True)
    assert "anchor" not in free.metrics[0]
    assert held.metrics[0]["anchor"] > 0.0
    assert misfit(held) < misfit(free)
    asked = iter([False, True])
    trained("parts", True, stop=lambda: next(asked))
    rest = trained("parts", True)
    one, other = (weights(p.policy.modules) for p in (held, rest))
    torch.testing.assert_close(one, other)


def test_an_anchor_pulls_by_its_weight(dataset: Path) -> None:
    data, policy = Demonstrations.read([dataset]), tiny_policy(0, SENTENCES)
    one, three = (
        Anchor(AnchorConfig(weight=weight), policy, data).loss(np.random.default_rng(5))
        for weight in (1.0, 3.0)
    )
    torch.testing.assert_close(three, 3.0 * one)
    assert three.requires_grad


def test_an_anchor_of_strange_sentences_is_refused(dataset: Path) -> None:
    data = Demonstrations.read([dataset])
    with pytest.raises(ConfigError, match="new sentences"):
        Anchor(AnchorConfig(), tiny_policy(0, ("fly away",)), data)
    with pytest.raises(ConfigError, match="weight is -1"):
        AnchorConfig(weight=-1.0)


def arguments(tmp_path: Path, *more: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    command.configure(parser)
    return parser.parse_args(["--out", str(tmp_path / "out"), "--preset", "smoke", *more])


def published(store_root: Path) -> None:
    """A store with random models of every kind."""
    from safedojo_ros.checkpoints.store.store import CheckpointStore

    world = imagination()
    models: dict[str, Any] = {
        "policy": tiny_policy(0, SENTENCES),
        "world_model": world.world_model,
        "success": world.success,
        "safety": world.safety,
    }
    for kind, model in models.items():
        directory = store_root.parent / f"new_{kind}"
        directory.mkdir()
        model.save(directory)
        CheckpointStore(store_root).publish(kind, directory, spec=model.spec())


def weights(network: torch.nn.Module) -> torch.Tensor:
    """All of them in a row."""
    return torch.cat([p.detach().flatten().clone() for p in network.parameters()])


@pytest.mark.parametrize("method", ["safedojo", "ppo"])
def test_the_command_trains_and_publishes(method: str, dataset: Path, tmp_path: Path) -> None:
    from safedojo_ros.checkpoints.store.store import CheckpointStore

    published(tmp_path / "store")
    store = ["--store", str(tmp_path / "store")]
    data = ["--base", "latest"]
    if method == "safedojo":
        data += ["--data", str(dataset), "--world-model", "latest"]
        data += ["--success", "latest", "--safety", "latest"]
    args = arguments(
        tmp_path, "--method", method, *data, "--publish", "--force", *store,
        "--set", "practice.levels=[0, 1]", "--demonstrations", str(dataset),
        "--set", "practice.anchor.only_safe=false", "--set", "practice.execute=4",
        "--set", "practice.update.dense_reward=true",  # so that every group differs
    )  # fmt: skip
    assert command.run(args) == 0
    metrics = json.loads((tmp_path / "out" / "metrics.jsonl").read_text().splitlines()[0])
    assert metrics["gradient_steps"] > 0.0
    assert metrics["anchor"] > 0.0
    result = json.loads((tmp_path / "out" / "practice.json").read_text())
    manifest = CheckpointStore(tmp_path / "store").show("policy")
    assert result["published"] == manifest.id
    assert verify(tmp_path / "out" / result["policy"]).kind == "policy", "the folder is one, too"
    assert manifest.fidelity["practice"]["method"] == method
    assert result["unenforced"]
    assert result["demonstrations"] == [str(dataset)]
    assert (result["real_episodes"] > 0) == (method == "ppo")
    assert result["data"]["episodes"] == (0 if method == "ppo" else 4)


def test_a_policy_that_is_worse_than_the_one_that_serves_is_kept_and_not_published(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def refuse(*given: Any, **more: Any) -> None:
        raise PublicationRefused("not published: SSR 40.0 %")

    monkeypatch.setattr("safedojo_ros.pipeline.practice.publish", refuse)
    published(tmp_path / "store")
    args = arguments(
        tmp_path, "--method", "ppo", "--base", "latest", "--publish", "--store",
        str(tmp_path / "store"), "--demonstrations", str(dataset), "--set", "practice.levels=[0]",
        "--set", "practice.anchor.only_safe=false", "--set", "practice.update.dense_reward=true",
    )  # fmt: skip
    assert command.run(args) == 3
    assert "not published: SSR 40.0 %" in capsys.readouterr().err
    result = json.loads((tmp_path / "out" / "practice.json").read_text())
    assert result["published"] is None
    assert (tmp_path / "out" / result["policy"]).is_dir()


def test_part_of_a_stride_is_refused_before_anything_is_measured(
    dataset: Path, tmp_path: Path
) -> None:
    published(tmp_path / "store")
    args = arguments(
        tmp_path, "--data", str(dataset), "--store", str(tmp_path / "store"),
        "--set", "practice.execute=3",
    )  # fmt: skip
    with pytest.raises(ConfigError, match="3 steps of a chunk of 8 cannot be imagined"):
        command.run(args)
    assert not list((tmp_path / "out").glob("policies/*"))


def test_what_imagination_needs_is_asked_for_there_and_nowhere_else(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="give --data"):
        PracticeRequest(out=tmp_path)
    PracticeRequest(out=tmp_path, method="ppo")
    for name in ("world_model", "success", "safety"):
        with pytest.raises(ConfigError, match="ppo trains in the simulator"):
            PracticeRequest(out=tmp_path, method="ppo", **{name: "latest"})  # type: ignore[arg-type]
