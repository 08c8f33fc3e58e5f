"""Several named costs: each is predicted, held under its own limit, and named."""

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from synthetic_episodes import CAMERAS, synthetic, written

from safedojo_ros.checkpoints.swap.head_exam import check_costs, examine
from safedojo_ros.core import costs
from safedojo_ros.core.costs import COSTS, Cost, CostLimit, add_cost, labelled
from safedojo_ros.core.errors import CheckpointError, ConfigError, DatasetError
from safedojo_ros.core.types import ActionChunk, Decision, Episode, Observation
from safedojo_ros.learning.data.contacts import query_batch, recorded_contacts
from safedojo_ros.learning.safety_head import (
    SafetyConfig,
    held_out_figures,
    new_safety_model,
    train_safety_head,
)
from safedojo_ros.models.autoencoder import AutoencoderSize, FrameAutoencoder
from safedojo_ros.models.loading import load_safety
from safedojo_ros.models.safety_head import tiny_safety
from safedojo_ros.models.scene_memory import SceneMemory
from safedojo_ros.robot.gate.gate import GateConfig, GateResult, SafetyGate
from safedojo_ros.robot.gate.judge import Judge

NEAR = CostLimit("near_person", limit=0.1)
ALLOW, SLOW, HOLD, STOP = Decision.ALLOW, Decision.SLOW, Decision.HOLD, Decision.STOP
NOW = 1_000_000_000


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    before = dict(COSTS)
    COSTS.clear()
    yield
    COSTS.clear()
    COSTS.update(before)


def chunks_of(*speeds: float, sequence: int = 1) -> list[ActionChunk]:
    at = NOW + sequence * 200_000_000
    return [ActionChunk(np.full((8, 7), s), observed_at=at, sequence=sequence) for s in speeds]


def says(contact: float, near: float) -> Callable[[np.ndarray], np.ndarray]:
    return lambda chunks: np.full((*chunks.shape[:2], 2), (contact, near))


def decide(gate: SafetyGate, ask: Any, *speeds: float, sequence: int = 1) -> GateResult:
    """At a limit of 0.5 for contact, and of 0.1 for the other cost."""
    chunks = chunks_of(*(speeds or (0.01,)), sequence=sequence)
    return gate.decide(chunks, ask, 0.5, lambda: chunks[0].observed_at, others=[NEAR])


def gate(**config: Any) -> SafetyGate:
    return SafetyGate(GateConfig(**({"detour_ratio": 0.0} | config)))


@pytest.mark.parametrize(
    ("contact", "near", "expected", "name"),
    [
        (0.2, 0.02, ALLOW, "contact"),
        (0.2, 0.07, SLOW, "near_person"),
        (0.2, 0.12, HOLD, "near_person"),
        (0.6, 0.07, HOLD, "contact"),
        (0.6, 0.12, HOLD, "contact"),
        (0.55, 0.12, HOLD, "near_person"),
        (0.99, 0.9, STOP, "contact"),
        (0.6, 0.99, HOLD, "near_person"),
    ],
)
def test_each_cost_is_held_under_its_own_limit_and_named(
    contact: float, near: float, expected: Decision, name: str
) -> None:
    result = decide(gate(), says(contact, near))
    assert (result.decision, result.proposed.name) == (expected, name)
    cost, limit = {"contact": (contact, 0.5), "near_person": (near, 0.1)}[name]
    assert (result.proposed.chunk_cost, result.proposed.limit) == (pytest.approx(cost), limit)
    if expected != ALLOW:
        assert f"predicted cost of {name} {cost:.2f} reaches" in result.reason


def test_a_hold_by_one_cost_ends_only_when_every_cost_is_low() -> None:
    judging, seen = gate(release_after=2), []
    for n, near in enumerate((0.12, 0.02, 0.02, 0.02), 1):
        contact = 0.45 if n == 2 else 0.1  # nine tenths of its own limit
        seen.append(decide(judging, says(contact, near), sequence=n).decision)
    assert seen == [HOLD, HOLD, HOLD, ALLOW]


def test_the_proposal_whose_worst_cost_is_least_is_taken() -> None:
    def ask(chunks: np.ndarray) -> np.ndarray:
        fast = chunks[..., 0] > 0.015
        # the fast one touches less, and is nearer to the person's limit
        return np.stack([np.where(fast, 0.1, 0.45), np.where(fast, 0.2, 0.01)], axis=-1)

    assert decide(gate(), ask, 0.02, 0.01).chosen.actions[0, 0] == 0.01


def test_a_detour_is_low_in_every_cost_and_says_which_it_avoids() -> None:
    def ask(chunks: np.ndarray) -> np.ndarray:
        aside = np.abs(chunks[..., 1] - 0.01) > 0.004
        up = chunks[..., 2] > 0.014
        return np.stack([np.where(aside, 0.02, 0.9), np.where(up, 0.001, 0.3)], axis=-1)

    result = decide(gate(detour_ratio=0.5), ask)
    assert result.decision == ALLOW
    assert abs(result.judged.actions[0, 1] - 0.01) > 0.004
    assert result.judged.actions[0, 2] > 0.014
    assert "predicted cost of near_person was 0.30" in result.reason


@pytest.mark.parametrize("shape", [(), (1,), (3,)])
def test_another_number_of_costs_is_a_hold(shape: tuple[int, ...]) -> None:
    result = decide(gate(), lambda chunks: np.zeros((*chunks.shape[:2], *shape)))
    assert result.decision == HOLD
    assert "the safety estimate has shape" in result.reason


def observation(seed: int = 0) -> Observation:
    rng = np.random.default_rng(seed)
    images = {name: rng.integers(0, 256, (64, 64, 3), np.uint8) for name in CAMERAS}
    return Observation(images, rng.normal(size=8), "wait")


def test_a_head_of_several_costs_is_judged_by_all_of_them_and_remembers() -> None:
    model = tiny_safety(others=(NEAR,))
    last = model.head.mlp[-1]
    assert isinstance(last, torch.nn.Linear)
    torch.nn.init.zeros_(last.weight)
    with torch.no_grad():
        last.bias.copy_(torch.tensor([-9.0, 9.0]))
    seen, chunk = observation(), np.full((1, 1, 8, 7), 0.01)
    both = model.step_costs([seen], chunk)
    np.testing.assert_array_equal(model.step_cost([seen], chunk), both[..., 0])
    assert both.shape == (1, 1, 8, 2)
    assert both[..., 0].max() < 0.1 < 0.9 < both[..., 1].min()
    for remember in (None, lambda head: SceneMemory(head, 4)):
        judge = Judge(gate(), remember)
        chunks = chunks_of(0.01)
        result, _ = judge.decide(chunks, lambda: seen, model, 0.5, lambda: NOW + 200_000_000)
        assert result.decision == HOLD
        assert "near_person" in result.reason


def test_names_and_limits_are_in_the_checkpoint_and_of_one_cost_nothing_is(
    tmp_path: Path,
) -> None:
    limit = dataclasses.replace(NEAR, share=0.05, threshold=0.3)
    model = tiny_safety(others=(limit,))
    model.head.temperature.copy_(torch.tensor([2.0, 3.0]))
    model.save(tmp_path)
    again, chunk = load_safety(tmp_path), np.full((1, 8, 7), 0.01)
    assert again.others == (limit,)
    assert again.spec()["costs"] == ["near_person"]
    np.testing.assert_array_equal(
        again.step_costs([observation()], chunk), model.step_costs([observation()], chunk)
    )
    tiny_safety().save(tmp_path)
    assert "costs" not in json.loads((tmp_path / "config.json").read_text())
    assert "costs" not in tiny_safety().spec()
    assert tiny_safety().head.temperature.shape == ()


@pytest.mark.parametrize(
    ("written", "why"),
    [
        (3, "'costs' is 3, expected a list"),
        ([{"name": "contact"}], "which is the first cost already"),
        ([{"name": "a", "limit": 2.0}], "limit is 2.0"),
        ([{"name": "a", "hue": 1}], "unknown setting 'costs"),
        ([{"name": "a"}, {"name": "a"}], "at most 8 different names"),
        ([], "model.safetensors"),
    ],
)
def test_costs_of_a_checkpoint_that_are_none_are_refused_in_one_line(
    tmp_path: Path, written: Any, why: str
) -> None:
    tiny_safety(others=(NEAR,)).save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"costs": written}))
    with pytest.raises(CheckpointError, match=why) as seen:
        load_safety(tmp_path)
    assert "\n" not in str(seen.value)


@pytest.mark.parametrize(
    ("expected", "refused"),
    [((), False), (("near_person",), False), (("too_low",), True), (("near_person", "a"), True)],
)
def test_a_cell_that_expects_other_costs_refuses_a_head(
    expected: tuple[str, ...], refused: bool
) -> None:
    model = tiny_safety(others=(NEAR,))
    if not refused:
        check_costs(model, expected)
        return
    with pytest.raises(CheckpointError, match="predicts contact, near_person, .* expects contact"):
        check_costs(model, expected)


def test_a_head_that_lacks_a_cost_does_not_follow_one_that_has_it() -> None:
    running, model = tiny_safety(others=(NEAR,)), tiny_safety()
    with pytest.raises(CheckpointError, match="does not predict near_person"):
        examine(model, 0.2, running, 0.2, [])


# ---------------------------------------------------------------------------- labels and training


def high(state: np.ndarray, actions: np.ndarray) -> np.ndarray:
    """The hand is high up."""
    above: np.ndarray = state[:, 2] > 0.3
    return above


def recorded(seed: int, length: int = 20) -> Episode:
    """Contact by the second number of the actions, height by the third of the state."""
    rng = np.random.default_rng(seed)
    state = (rng.normal(size=8) + 0.2 * rng.normal(size=(length, 8))).astype(np.float32)
    state[:, 2] = rng.normal(size=length)
    actions = np.zeros((length, 7), np.float32)
    actions[:, :3] = 0.01 * state[:, :3]
    return synthetic(
        {c: np.full((length, 64, 64, 3), 7 * seed, np.uint8) for c in CAMERAS},
        state,
        actions,
        seed,
        success=np.arange(length) == length - 1,
        cost=(actions[:, 1] > 0.004).astype(np.float32),
    )


@pytest.fixture(scope="module")
def episodes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("episodes") / "data", map(recorded, range(30)))


def tiny_eyes() -> FrameAutoencoder:
    torch.manual_seed(0)
    return FrameAutoencoder(AutoencoderSize(widths=(8, 8, 16, 16)))


def test_a_head_learns_a_registered_cost_beside_contact(episodes: Path, tmp_path: Path) -> None:
    add_cost(Cost("high", high, limit=0.3, share=0.2))
    config = SafetyConfig(steps=250, batch_size=64, learning_rate=3e-3)
    model = new_safety_model(tiny_eyes(), config, episodes)
    assert model.others == (CostLimit("high", 0.3, 0.2),)
    frames = recorded_contacts([episodes], model)
    state = model.scales.state.restore(frames.state)[:, 2].numpy()
    first = frames.others[:, 0, 0].numpy().astype(bool)
    clear = np.abs(state - 0.3) > 1e-3
    np.testing.assert_array_equal(first[clear], state[clear] > 0.3)
    figures = train_safety_head(config, model, frames, tmp_path / "head")
    assert figures["auroc"] > 0.85
    assert figures["others"]["high"]["auroc"] > 0.85
    assert model.others[0].threshold == figures["others"]["high"]["cost_threshold"]
    temperatures = [figures["temperature"], figures["others"]["high"]["temperature"]]
    assert model.head.temperature.tolist() == pytest.approx(temperatures)


def test_contact_is_learned_the_same_whatever_else_is_there(episodes: Path) -> None:
    """The figures of contact are those of the first output alone."""
    config = SafetyConfig()
    alone = new_safety_model(tiny_eyes(), config, episodes)
    add_cost(Cost("high", high))
    both = new_safety_model(tiny_eyes(), config, episodes)
    weights = {name: value[:1] for name, value in both.head.mlp[-1].state_dict().items()}
    alone.head.load_state_dict(
        both.head.state_dict()
        | {f"mlp.{len(both.head.mlp) - 1}.{name}": value for name, value in weights.items()}
        | {"temperature": torch.ones(())}
    )
    chosen = np.arange(30 * 20) < 200
    one = held_out_figures(alone, recorded_contacts([episodes], alone), chosen)
    two = held_out_figures(both, recorded_contacts([episodes], both), chosen)
    two.pop("others")
    assert two == pytest.approx(one)


def test_of_probes_only_contact_is_known(episodes: Path) -> None:
    from safedojo_ros.learning.data.contacts import SceneProbes

    add_cost(Cost("high", high))
    model = new_safety_model(tiny_eyes(), SafetyConfig(), episodes)
    frames = recorded_contacts([episodes], model)
    one = torch.arange(30)
    frames.probes = SceneProbes(
        torch.zeros(30, 8), torch.zeros(30, 8, 7), torch.ones(30, 8), one, torch.ones_like(one)
    )
    generator = torch.Generator().manual_seed(0)
    *_, others = query_batch([frames], [torch.arange(600)], [40], 3, generator, probes=2)
    assert others.shape == (40, 5, 8, 1)
    assert not others[:, :3].isnan().any()
    assert others[:, 3:].isnan().all()


@pytest.mark.parametrize(
    ("name", "limit", "why"),
    [
        ("high", 0.2, "there is a cost 'high' already"),
        ("contact", 0.2, "which is the first cost already"),
        ("too high", 0.2, "expected letters, digits and _"),
        ("other", 1.0, "limit is 1.0"),
    ],
)
def test_a_cost_that_cannot_be_is_refused(name: str, limit: float, why: str) -> None:
    add_cost(Cost("high", high))
    with pytest.raises(ConfigError, match=why):
        add_cost(Cost(name, high, limit))
    assert list(COSTS) == ["high"]


def test_more_costs_than_a_head_predicts_are_refused() -> None:
    for number in range(costs.MOST_COSTS):
        add_cost(Cost(f"cost{number}", high))
    with pytest.raises(ConfigError, match="there are 8 costs already"):
        add_cost(Cost("one_more", high))


def test_a_label_that_does_not_fit_is_refused_in_one_line(episodes: Path, tmp_path: Path) -> None:
    state, actions, starts = np.zeros((5, 8)), np.zeros((5, 7)), np.array([0, 3, 5])
    with pytest.raises(ConfigError, match="cost 'high' is not registered"):
        labelled(["high"], state, actions, starts)
    add_cost(Cost("high", lambda state, actions: state > 0))
    with pytest.raises(ConfigError, match=r"has shape \(3, 8\), expected \(3,\)"):
        labelled(["high"], state, actions, starts)
    COSTS["high"] = Cost("high", lambda state, actions: np.zeros(len(state)))
    model = new_safety_model(tiny_eyes(), SafetyConfig(), episodes)
    with pytest.raises(DatasetError, match="no step of these episodes has cost 'high'"):
        train_safety_head(
            SafetyConfig(steps=0), model, recorded_contacts([episodes], model), tmp_path
        )
