"""The fidelity report's parts against known answers, and the whole on tiny models."""

import contextlib
import io
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from safedojo_ros.checkpoints.store.store import CheckpointStore
from safedojo_ros.cli.main import main
from safedojo_ros.core.errors import CheckpointError
from safedojo_ros.core.types import Episode
from safedojo_ros.data.lerobot.video import read_video
from safedojo_ros.data.lerobot.writer import EpisodeWriter
from safedojo_ros.evaluation.forecasts import forecast_figures, reliability_curve
from safedojo_ros.evaluation.statistics import ClusterBootstrap
from safedojo_ros.fidelity.heads import recorded_latents
from safedojo_ros.fidelity.held_out import read_held_out
from safedojo_ros.fidelity.image_error import (
    mean_squared_error,
    peak_signal_to_noise,
    structural_similarity,
)
from safedojo_ros.fidelity.lead_time import lead_time
from safedojo_ros.fidelity.thresholds import METRICS, RATES, FidelityBars, ValidationConfig, judge
from safedojo_ros.fidelity.uncertainty import conformal_factor, uncertainty_figures
from safedojo_ros.fidelity.validation import bar_values, finite, validate
from safedojo_ros.models.safety_head import tiny_safety
from safedojo_ros.models.success_classifier import tiny_success
from safedojo_ros.models.world_model import WorldModel, WorldModelSize

CAMERAS = ("agentview", "wrist")


def episode(seed: int, length: int = 54) -> Episode:
    """Every other one collides, two of three succeed."""
    rng = np.random.default_rng(seed)
    cost = np.zeros(length, np.float32)
    if seed % 2:
        cost[30:34] = 1.0
    return Episode(
        images={c: rng.integers(0, 255, (length, 64, 64, 3), np.uint8) for c in CAMERAS},
        state=rng.normal(size=(length, 8)).astype(np.float32),
        actions=np.clip(rng.normal(size=(length, 7)) * 0.01, -0.05, 0.05).astype(np.float32),
        success=(np.arange(length) > length - 10) & (seed % 3 > 0),
        cost=cost,
        displacement=0.01 * cost,
        instruction="put the red cube on the plate",
        task="cube_on_plate",
        level=1,
        seed=seed,
        source="policy:tiny",
    )


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Held-out episodes, and a store with a tiny model of each kind."""
    root = tmp_path_factory.mktemp("validation")
    with EpisodeWriter(root / "data", 64, CAMERAS) as writer:
        for seed in range(8):
            writer.add(episode(seed))
    world, safety = tiny_world(), tiny_safety()
    store = CheckpointStore(root / "store")
    for kind, model in (("world_model", world), ("success", tiny_success()), ("safety", safety)):
        directory = root / kind.removesuffix("_model")
        directory.mkdir()
        model.save(directory)
        store.publish(kind, directory, spec=model.spec())
    return root


def tiny_world() -> WorldModel:
    """A random world model over the autoencoder of `tiny_safety()`."""
    safety = tiny_safety()
    size = WorldModelSize(2, 16, 2, feed_forward=64, stride=2, denoising_steps=1)
    return WorldModel(safety.autoencoder, size, safety.scales)


def command(root: Path) -> list[str]:
    options = ["validate", "--data", str(root / "data"), "--store", str(root / "store")]
    for kind in ("world-model", "success", "safety"):
        options += [f"--{kind}", "latest"]
    return [*options, "--device", "cpu", "--preset", "smoke"]


class Balanced(HTMLParser):
    """Elements that are open: each must be closed in its turn."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag not in ("meta", "img", "line", "circle", "polygon", "polyline"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("line", "circle", "polygon", "polyline"):
            assert self.open.pop() == tag


def test_ssim_of_plain_images_is_that_of_the_formula() -> None:
    one, other = torch.full((1, 3, 32, 32), 0.3), torch.full((1, 3, 32, 32), 0.6)
    expected = (2 * 0.3 * 0.6 + 1e-4) / (0.3**2 + 0.6**2 + 1e-4)
    assert structural_similarity(one, other).item() == pytest.approx(expected, abs=1e-4)
    assert structural_similarity(one, one).item() == pytest.approx(1.0, abs=1e-5)


def test_ssim_sees_structure_that_mse_does_not() -> None:
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(2, 2, 3, 24, 24, generator=generator)
    shifted = image + 0.1
    noisy = image + 0.1 * torch.randn(image.shape, generator=generator).sign()
    torch.testing.assert_close(mean_squared_error(image, shifted), mean_squared_error(image, noisy))
    better, worse = (structural_similarity(image, p) for p in (shifted, noisy))
    assert bool((better > worse).all())


def test_psnr_of_a_tenth_is_twenty_decibels() -> None:
    mse = mean_squared_error(torch.zeros(1, 3, 4, 4), torch.full((1, 3, 4, 4), 0.1))
    assert peak_signal_to_noise(mse).item() == pytest.approx(20.0, abs=1e-4)


def test_rows_of_one_episode_count_as_one_observation() -> None:
    values = np.repeat([0.0, 1.0] * 8, 50)
    clustered = ClusterBootstrap(np.repeat(np.arange(16), 50)).mean(values)
    alone = ClusterBootstrap(np.arange(800)).mean(values)
    assert clustered.value == alone.value == 0.5
    assert clustered.high - clustered.low > 4 * (alone.high - alone.low)


def test_a_perfect_forecast_and_a_coin() -> None:
    rng = np.random.default_rng(0)
    truth = rng.random(400) < 0.3
    episode = np.repeat(np.arange(20), 20)
    perfect = forecast_figures(truth, truth.astype(float), episode)
    assert perfect["auroc"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    assert perfect["brier"]["value"] == perfect["ece"]["value"] == 0.0
    coin = forecast_figures(truth, np.full(400, 0.5), episode)
    assert coin["auroc"]["value"] == 0.5
    assert coin["ece"]["value"] == pytest.approx(abs(truth.mean() - 0.5))
    assert "auroc" not in forecast_figures(np.zeros(400, bool), rng.random(400), episode)


def test_the_reliability_curve_counts_what_happened() -> None:
    curve = reliability_curve(np.array([0, 1, 1, 1]), np.array([0.04, 0.06, 0.95, 1.0]))
    assert curve[0] == {"forecast": pytest.approx(0.05), "observed": 0.5, "count": 2}
    assert curve[1] == {"forecast": pytest.approx(0.975), "observed": 1.0, "count": 2}


def test_lead_time_runs_from_the_first_alarm_to_the_first_contact() -> None:
    free, touching = np.zeros((20, 30)), np.zeros((3, 30))
    free[0, 5] = 0.9  # the one episode of twenty whose alarm may be false
    free[1:, 7] = 0.3
    touching[0, 14:] = 0.8  # 6 steps ahead
    touching[1, 10:] = 0.8  # 10 steps ahead
    touching[2, 25:] = 0.8  # after the contact
    alarm = np.concatenate([free, touching]).ravel()
    contact = np.zeros((23, 30), bool)
    contact[20:, 20:] = True
    starts = np.arange(24) * 30
    result = lead_time(alarm, contact.ravel(), starts, 0.05)
    assert result["threshold"] == pytest.approx(0.3)
    assert result["median_s"]["value"] == pytest.approx(6 * 0.05)
    assert result["preceded"] == pytest.approx(2 / 3)
    assert result["measured_false_alarms"] == pytest.approx(1 / 20)
    strict = lead_time(alarm, contact.ravel(), starts, 0.0)
    assert strict["median_s"]["value"] == 0.0
    assert "median_s" not in lead_time(alarm, np.zeros(23 * 30, bool), starts, 0.05)


@given(
    alarm=st.lists(st.floats(0, 1), min_size=40, max_size=40),
    contact=st.lists(st.booleans(), min_size=40, max_size=40),
    rate=st.floats(0, 0.5),
    per=st.sampled_from(["episode", "step"]),
)
def test_false_alarms_never_exceed_their_share(
    alarm: list[float], contact: list[bool], rate: float, per: str
) -> None:
    starts = np.arange(0, 41, 10)
    result = lead_time(np.array(alarm), np.array(contact), starts, rate, per)
    if "median_s" in result:
        assert result["measured_false_alarms"] <= rate + 1e-9
        assert 0.0 <= result["median_s"]["value"] <= 9 * 0.05


def test_a_conformal_bound_covers_its_share() -> None:
    rng = np.random.default_rng(0)
    spread = rng.uniform(0.5, 2.0, 4000)
    error = spread * np.abs(rng.normal(size=4000))
    factor = conformal_factor(error[:2000], spread[:2000], 0.9)
    assert factor is not None
    assert (error[2000:] <= factor * spread[2000:]).mean() == pytest.approx(0.9, abs=0.02)
    assert conformal_factor(error[:5], spread[:5], 0.9) is None


def test_spread_over_seeds_is_ranked_against_error() -> None:
    generator = torch.Generator().manual_seed(0)
    scale = torch.linspace(0.1, 2.0, 60)[None, :, None, None, None]
    seeds = scale * torch.randn(4, 60, 2, 4, 4, generator=generator)
    episode = np.repeat(np.arange(20), 3)
    honest = uncertainty_figures(seeds, torch.zeros(60, 2, 4, 4), episode)
    assert honest["spearman"]["value"] > 0.9
    assert honest["coverage"]["value"] > 0.6
    blind = torch.zeros(60, 2, 4, 4)
    assert "spearman" not in uncertainty_figures(torch.zeros(4, 60, 2, 4, 4), blind, episode)


def test_every_bar_is_described_and_judged_in_its_sense() -> None:
    bars = FidelityBars()
    names = [name for name in METRICS if name not in RATES]
    good = {name: (1e9 if METRICS[name][1] else 0.0) for name in names}
    assert [v.metric for v in judge(bars, good, rates=False)] == names
    assert all(v.passed for v in judge(bars, good, rates=False))
    bad = {name: (0.0 if METRICS[name][1] else 1e9) for name in names}
    assert not any(v.passed for v in judge(bars, bad, rates=False))
    assert {v.metric for v in judge(bars, good, rates=True) if not v.passed} == set(RATES)


def test_what_could_not_be_measured_misses_its_bar_and_says_so() -> None:
    verdicts = {v.metric: v for v in judge(FidelityBars(), {"state_cm_8": 1.234}, rates=False)}
    assert verdicts["state_cm_8"].sentence == (
        "proprioception error after 8 steps, cm is 1.23, the bar is at most 1 (state_cm_8)"
    )
    missing = verdicts["lead_time_s"]
    assert not missing.passed
    assert "could not be measured on these data, the bar is at least 0.3" in missing.sentence
    judged = judge(FidelityBars(), {"state_cm_8": math.nan}, rates=False)
    (nan,) = (v for v in judged if v.metric == "state_cm_8")
    assert (nan.value, nan.passed) == (None, False)


def test_json_holds_no_number_that_is_not_finite() -> None:
    mixed = {"a": math.nan, "b": [1, np.float64(2)], "c": {"low": math.inf, "value": 1.0}}
    assert finite(mixed) == {"b": [1, 2.0], "c": {"value": 1.0}}


@pytest.fixture(scope="module")
def errors(root: Path) -> str:
    """What `safedojo validate` says on stderr; its report lies in root/report."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        assert main([*command(root), "--out", str(root / "report")]) == 3
    return said.getvalue()


def test_the_whole_report_on_tiny_models(root: Path, errors: str) -> None:
    assert "bar missed: proprioception error after 8 steps" in errors
    report = json.loads((root / "report/fidelity.json").read_text())
    steps = sorted({entry["steps"] for entry in report["by_horizon"]})
    assert steps == [4, 8, 16, 24, 32, 40]
    groups = {entry["group"] for entry in report["by_horizon"]}
    assert groups == {"all", "safe", "colliding"}
    last = report["by_horizon"][-1]
    for space in ("camera", "reconstruction"):
        for name in ("mse", "copying", "permuted", "zeroed", "psnr", "ssim"):
            value = last[space][name]
            assert value["low"] <= value["value"] <= value["high"]
    few = {(e["denoising_steps"], e["steps"]) for e in report["few_steps"]}
    assert few == {(count, steps) for count in (1, 2, 4) for steps in (8, 40)}
    assert report["uncertainty"]["40"]["seeds"] == 2
    assert set(report["success"]) == {"real", "imagined"}
    assert {"true", "imagined", "matched"} <= set(report["safety"])
    assert report["safety"]["lead_time"]["contact_episodes"] == report["data"]["colliding"]
    assert {bar["metric"] for bar in report["bars"]} == set(METRICS) - set(RATES)


def test_the_safety_head_reads_held_out_frames_in_its_own_latents(root: Path) -> None:
    world, safety = tiny_world(), tiny_safety()
    held = read_held_out([root / "data"], world, 1)
    own = safety.encode(held.images(torch.arange(len(held.frames.images))) * 2 - 1)
    seen = recorded_latents(safety, world, held)
    torch.testing.assert_close(seen, own, atol=2e-3, rtol=2e-3)  # held as float16
    other = tiny_safety(seed=1)  # another autoencoder
    own = other.encode(held.images(torch.arange(len(held.frames.images))) * 2 - 1)
    torch.testing.assert_close(recorded_latents(other, world, held), own, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(seen, own, atol=0.1)


def test_models_that_see_other_images_are_not_validated_together(root: Path) -> None:
    world = tiny_world()
    held = read_held_out([root / "data"], world, 1)
    success = tiny_success()
    success.cameras = ("wrist", "agentview")
    with pytest.raises(CheckpointError, match="success classifier sees .*train one for the other"):
        validate(ValidationConfig(), world, success, tiny_safety(), held)


@pytest.mark.usefixtures("errors")
def test_the_page_needs_no_other_file(root: Path) -> None:
    page = (root / "report/fidelity.html").read_text()
    assert page.count("data:image/png;base64,") >= 8 + 2
    assert re.search(r"commit ([0-9a-f]{12}|unknown); preset smoke", page)
    assert not re.findall(r"(?:src|href)=\"(?!data:)|url\(|@import|<script|<link", page)
    parser = Balanced()
    parser.feed(page)
    assert parser.open == []


@pytest.mark.usefixtures("errors")
def test_the_figures_go_into_the_manifest(root: Path) -> None:
    options = ["--store", str(root / "store"), "publish", "world_model", str(root / "world")]
    details = ["--details", str(root / "report/details.json")]
    assert main(["checkpoint", *options, *details]) == 0
    fidelity = CheckpointStore(root / "store").show("world_model").fidelity
    assert fidelity["by_horizon"][0]["steps"] == 4
    assert fidelity["bars"]


def test_bars_that_are_reached_pass(root: Path, errors: str) -> None:
    report = json.loads((root / "report/fidelity.json").read_text())
    values = bar_values(report)
    reached = FidelityBars(**{name: value for name, value in values.items() if value is not None})
    assert all(v.passed for v in judge(reached, values, rates=False))
    missed = [line.rsplit("(", 1)[1].rstrip(")") for line in errors.splitlines()]
    assert missed == [bar["metric"] for bar in report["bars"] if not bar["passed"]]


@pytest.mark.parametrize("suffix", ["mp4", "gif", "png"])
def test_imagine_writes_real_above_imagined(root: Path, suffix: str) -> None:
    out = root / f"film.{suffix}"
    options = ["--checkpoint", "latest", "--store", str(root / "store"), "--data"]
    options += [str(root / "data"), "--episode", "1", "--start", "4", "--chunks", "2"]
    assert main(["imagine", *options, "--out", str(out)]) == 0
    height, width = 2 * (192 + 24), 2 * 192
    if suffix == "mp4":
        assert np.any([*read_video(out, 0, 10, 9, (height, width, 3))])
    else:
        with Image.open(out) as image:
            assert image.size == (width if suffix == "gif" else 6 * width, height)
            assert getattr(image, "n_frames", 1) == (9 if suffix == "gif" else 1)


def test_imagine_refuses_what_is_not_there(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["imagine", "--store", str(root / "store"), "--data", str(root / "data")]
    options += ["--checkpoint", "latest"]
    for more, message in (
        (["--episode", "99", "--out", "a.mp4"], "has 8 episodes, no number 99"),
        (["--start", "40", "--out", "a.mp4"], "5 chunks from step 40 need 81"),
        (["--out", "a.avi"], "expected a name in .mp4, .gif, .png"),
    ):
        assert main([*options, *more]) == 2
        assert message in capsys.readouterr().err
