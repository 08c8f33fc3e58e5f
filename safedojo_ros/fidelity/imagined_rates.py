"""Rates of a policy in imagination against those in the simulator, and ranks of checkpoints.

Both use the same scenes: each future starts at the first frame of a simulated trial.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from scipy.stats import pearsonr, spearmanr

from safedojo_ros.core.errors import ConfigError, DatasetError
from safedojo_ros.data.lerobot.reader import EpisodeReader
from safedojo_ros.evaluation.play import play
from safedojo_ros.evaluation.protocol import evaluate
from safedojo_ros.evaluation.statistics import ClusterBootstrap, Estimate, bootstrap_mean
from safedojo_ros.learning.rl.imagined_world import ImaginedOutcome, ImaginedWorld, keyframes_of
from safedojo_ros.worlds.registry import DEFAULT_WORLD, world_kind
from safedojo_ros.worlds.vector import VectorWorld, first_observations
from safedojo_ros.worlds.world import Scene

if TYPE_CHECKING:
    from safedojo_ros.models.policy import Policy

RATES = ("tsr", "ssr", "car")
NEVER = 2.0
"""A threshold above every probability."""
BATCH = 32
"""Trials that are imagined together."""


@dataclass(frozen=True)
class Outcomes:
    """The results of N trials: success and collided (N,) bool."""

    success: np.ndarray
    collided: np.ndarray

    def rate(self, name: str) -> np.ndarray:
        """(N,) float, 1 where the trial counts for "tsr", "ssr" or "car"."""
        free = ~self.collided
        counted = {"tsr": self.success, "ssr": self.success & free, "car": free}[name]
        return np.asarray(counted, dtype=np.float64)


def read_measured(path: Path, max_steps: int) -> tuple[str, list[Scene], Outcomes]:
    """Policy id, trials and outcomes of what `safedojo evaluate --json` wrote.

    Raises `DatasetError` that names the file, `ConfigError` where the step limit of its episodes is
    not `max_steps`.
    """
    try:
        report = json.loads(path.read_bytes())
        episodes = report["episodes"]
        trials = [Scene(int(e["seed"]), str(e["task"]), int(e["level"])) for e in episodes]
        outcomes = Outcomes(
            np.array([bool(e["success"]) for e in episodes], dtype=bool),
            np.array([bool(e["collided"]) for e in episodes], dtype=bool),
        )
        policy, allowed = str(report["policy"]), int(report["settings"]["max_steps"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DatasetError(
            f"{path} is not what `safedojo evaluate --json` writes ({error!r}); evaluate again"
        ) from None
    if allowed != max_steps:
        raise ConfigError(
            f"{path} measured episodes of {allowed} steps, imagined are {max_steps}; "
            f"pass --set validation.max_steps={allowed}"
        )
    return policy, trials, outcomes


def read_played(directory: Path, policy: str) -> tuple[list[Scene], np.ndarray]:
    """Trials of the episodes that were recorded of policy id `policy`, and (N,) its successes.

    Raises `DatasetError` where there is none.
    """
    rows = [row for row in EpisodeReader(directory).rows if row.source == f"policy:{policy}"]
    if not rows:
        raise DatasetError(f"{directory} has no episode of policy {policy}; collect some")
    trials = [Scene(row.seed, row.task, row.level) for row in rows]
    return trials, np.array([row.success for row in rows], dtype=bool)


def measure(
    policy: "Policy",
    trials: list[Scene],
    max_steps: int,
    image_size: int,
    simulator: str = DEFAULT_WORLD,
    batch: int = 16,
) -> Outcomes:
    """Run the trials in the world `simulator`, with images of imagination's size."""
    vector = VectorWorld(image_size, max_steps, tuple(policy.cameras), world=simulator)
    batch = min(batch, world_kind(simulator).side_by_side)
    results = evaluate(policy, trials, vector, batch=batch).results
    return Outcomes(
        np.array([r.success for r in results], dtype=bool),
        np.array([r.collided for r in results], dtype=bool),
    )


def imagine_trials(
    policy: "Policy", world: ImaginedWorld, trials: list[Scene], simulator: str = DEFAULT_WORLD
) -> Outcomes:
    """Run the trials in imagination; the policy's noise depends on the trial alone.

    A future collides where a step's P(contact) is above the imagined world's threshold. The
    simulator counts an obstacle that moved by more than 1 mm instead; imagination has no such
    value. Raises `ConfigError` where policy and world model have different chunks.
    """
    success, collided = [], []
    for first in range(0, len(trials), BATCH):
        outcomes = _imagine(policy, world, trials[first : first + BATCH], first, simulator)
        over = [(o.cost > world.contact_threshold) & o.valid for o in outcomes]
        success.append(np.any([o.success.any(axis=1) for o in outcomes], axis=0))
        collided.append(np.any([part.any(axis=1) for part in over], axis=0))
    return Outcomes(np.concatenate(success), np.concatenate(collided))


def success_scores(
    policy: "Policy", world: ImaginedWorld, trials: list[Scene], simulator: str = DEFAULT_WORLD
) -> np.ndarray:
    """(N,) the highest threshold for imagined frames at which each trial succeeds in imagination.

    The policy acts on imagined frames up to the step limit, whatever the classifier predicts. Its
    actions may mislead the classifier where recorded ones would not.
    """
    classifier, scores = world.success, []
    kept, classifier.imagined_threshold = classifier.imagined_threshold, NEVER
    try:
        for first in range(0, len(trials), BATCH):
            outcomes = _imagine(policy, world, trials[first : first + BATCH], first, simulator)
            stride = world.world_model.size.stride
            seen = np.concatenate(
                [o.success_probability[:, stride - 1 :: stride] for o in outcomes], axis=1
            )
            windows = sliding_window_view(seen, classifier.consecutive, axis=1)
            scores.append(windows.min(-1).max(-1))
    finally:
        classifier.imagined_threshold = kept
    return np.concatenate(scores)


def _imagine(
    policy: "Policy", world: ImaginedWorld, trials: list[Scene], seed: int, simulator: str
) -> list[ImaginedOutcome]:
    """Every chunk of the trials, which are imagined together until all are done."""
    if policy.chunk_length != world.horizon:
        raise ConfigError(
            f"policy {policy.checkpoint_id} has chunks of {policy.chunk_length} steps, the world "
            f"model imagines {world.horizon}; these do not fit"
        )
    world.seed(seed)
    seen = first_observations(simulator, trials, world.image_size, tuple(world.cameras))
    observations = world.reset(keyframes_of(world.world_model, seen))
    steps = play(policy, world, observations, [trial.seed for trial in trials])
    return [step.outcome for step in steps]


def rates_apart(imagined: Outcomes, measured: Outcomes, seed: int = 0) -> dict[str, Any]:
    """{"tsr", "ssr", "car"}: imagined and measured rate, their difference, and its absolute value.

    Intervals are over trials, resampled as pairs.
    """
    result = {}
    for name in RATES:
        predicted, real = imagined.rate(name), measured.rate(name)
        gap = predicted - real
        apart = ClusterBootstrap(np.arange(len(gap)), seed).estimate(
            lambda rows, gap=gap: abs(float(gap[rows].mean()))  # type: ignore[misc]
        )
        result[name] = {
            "trials": len(gap),
            "imagined": asdict(bootstrap_mean(predicted.tolist(), seed)),
            "measured": asdict(bootstrap_mean(real.tolist(), seed)),
            "difference": asdict(bootstrap_mean(gap.tolist(), seed)),
            "apart": asdict(apart),
        }
    return result


def ranking(
    names: Sequence[str], imagined: Sequence[Outcomes], measured: Sequence[Outcomes], seed: int = 0
) -> dict[str, Any]:
    """Whether imagination ranks checkpoints by SSR as the simulator does.

    Spearman, Pearson and MMRV over the checkpoints, with intervals over resampled trials. Raises
    `ConfigError` for fewer than two; a claim needs five.
    """
    if len(names) < 2:
        raise ConfigError(f"{len(names)} checkpoint cannot be ranked; give at least two")
    predicted, real = ([o.rate("ssr") for o in side] for side in (imagined, measured))
    policies = [
        {
            "policy": name,
            "imagined": asdict(bootstrap_mean(d.tolist(), seed)),
            "measured": asdict(bootstrap_mean(r.tolist(), seed)),
        }
        for name, d, r in zip(names, predicted, real, strict=True)
    ]
    statistics = {"spearman": _spearman, "pearson": _pearson, "mmrv": mean_maximum_rank_violation}
    rng = np.random.default_rng(seed)
    draws = []
    for _ in range(200):
        rows = [rng.integers(0, len(d), len(d)) for d in predicted]
        draws.append(
            [
                np.array([v[r].mean() for v, r in zip(side, rows, strict=True)])
                for side in (predicted, real)
            ]
        )
    means = [np.array([v.mean() for v in side]) for side in (predicted, real)]
    result: dict[str, Any] = {"checkpoints": len(names), "policies": policies}
    for name, statistic in statistics.items():
        value = statistic(*means)
        if math.isfinite(value):
            values = np.array([statistic(*pair) for pair in draws])
            values = values[np.isfinite(values)]
            low, high = np.quantile(values, [0.025, 0.975]) if len(values) else (value, value)
            result[name] = asdict(Estimate(value, float(low), float(high)))
    return result


def mean_maximum_rank_violation(imagined: np.ndarray, measured: np.ndarray) -> float:
    """MMRV (Li et al. 2024): for each checkpoint the largest measured gap to one that imagination
    ranks in the opposite order, averaged; 0 where the ranks agree. Both (P,).
    """
    gaps = np.abs(measured[:, None] - measured)
    swapped = (imagined[:, None] < imagined) != (measured[:, None] < measured)
    return float((gaps * swapped).max(axis=1).mean())


def _spearman(imagined: np.ndarray, measured: np.ndarray) -> float:
    if len(np.unique(imagined)) < 2 or len(np.unique(measured)) < 2:
        return math.nan
    return float(spearmanr(imagined, measured).statistic)


def _pearson(imagined: np.ndarray, measured: np.ndarray) -> float:
    if len(np.unique(imagined)) < 2 or len(np.unique(measured)) < 2:
        return math.nan
    return float(pearsonr(imagined, measured).statistic)
