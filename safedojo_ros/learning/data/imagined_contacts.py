"""What the safety head is taught and told about imagined futures: states, and its threshold."""

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

from safedojo_ros.learning.data.replay import draw_starts, replay
from safedojo_ros.learning.safety_head import (
    ContactFrames,
    SafetyConfig,
    held_out_episodes,
    rate_threshold,
    scene_untouched,
)
from safedojo_ros.learning.world_model import LatentEpisodes
from safedojo_ros.models.safety_head import SafetyModel
from safedojo_ros.models.world_model import WorldModel


def imagined_contact_frames(
    config: SafetyConfig, model: SafetyModel, world: WorldModel, data: LatentEpisodes
) -> ContactFrames:
    """Recorded actions replayed in imagination: the state at the end of every chunk but the last.

    What comes next is what the recording has next. The picture is the real one that the future
    began with, as `learning.rl.imagined_world` judges its costs. `data` must be of the same
    episodes, in the same order, as the recorded frames beside which these are learned from. Raises
    `DatasetError` where no episode is long enough.
    """
    rng = np.random.default_rng(config.seed)
    size, horizon = world.size, config.chunks * world.size.chunk_length
    starts = draw_starts(data, horizon, config.replays, rng)
    _, states = replay(world, data, starts.first, starts.start, config.chunks, config.seed)
    # after the last chunk comes no next one
    state = world.scales.state.restore(states[:, size.chunk_length - 1 : -1 : size.chunk_length])
    ahead = torch.arange(1, config.chunks)[:, None] * size.chunk_length
    rows = starts.first[:, None, None] + ahead + torch.arange(model.chunk_length)
    chunks = world.scales.action.restore(data.actions[rows]).flatten(0, 1)
    contact = torch.from_numpy((data.cost[rows.numpy()] > 0).astype(np.float32)).flatten(0, 1)
    each = torch.arange(len(starts.first)).repeat_interleave(config.chunks - 1)
    untouched = torch.from_numpy(scene_untouched(data.cost, data.starts))
    return ContactFrames(
        world.stacked(data.latents[starts.first])[each],
        model.scales.state.normalise(state.flatten(0, 1)),
        model.scales.action.normalise(chunks),
        contact,
        torch.ones_like(contact),
        starts.episode[each.numpy()],
        starts.start[each],
        untouched[starts.first][each],
    )


def calibrate_threshold(
    config: SafetyConfig, model: SafetyModel, world: WorldModel, data: LatentEpisodes
) -> dict[str, float]:
    """Set the contact threshold by imagined episodes; returns what it says of others.

    Held-out episodes are imagined from their first frame to their end, under their recorded
    actions. Over the threshold are as many of one half as really had a contact; the figures are of
    the other half.
    """
    episodes = held_out_episodes(config, len(data.rows))
    predicted, touched = imagined_worst(model, world, data, episodes)
    model.contact_threshold = rate_threshold(predicted[::2], touched[::2])
    judged, truth = predicted[1::2] > model.contact_threshold, touched[1::2]
    figures = {
        "contact_threshold": model.contact_threshold,
        "episode_accuracy": float((judged == truth).mean()),
        "episode_contact_rate": float(truth.mean()),
        "episode_predicted_rate": float(judged.mean()),
    }
    if truth.any() and not truth.all():
        figures["episode_auroc"] = float(roc_auc_score(truth, predicted[1::2]))
    return figures


@torch.no_grad()
def imagined_worst(
    model: SafetyModel, world: WorldModel, data: LatentEpisodes, episodes: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(largest P(contact) of a step, whether there was contact) of whole episodes (E,) imagined."""
    horizon = world.size.chunk_length
    start = torch.from_numpy(data.starts[episodes])
    lengths = data.starts[1:][episodes] - data.starts[episodes]
    chunks = -(-int(lengths.max()) // horizon)
    steps = np.arange(chunks * horizon)
    rows = data.starts[episodes][:, None] + np.minimum(steps, lengths[:, None] - 1)
    exists = steps < lengths[:, None]
    actions = data.actions[torch.from_numpy(rows)]
    _, states = replay(world, data, start, start, chunks, actions=actions)
    state = torch.cat([data.state[start][:, None], states], dim=1)[:, ::horizon][:, :chunks]
    device = model.head.temperature.device
    model.network.eval()
    logits = model.head(
        world.stacked(data.latents[start].float().to(device)),
        model.scales.state.normalise(world.scales.state.restore(state.to(device))),
        model.scales.action.normalise(
            world.scales.action.restore(actions.to(device).unflatten(1, (chunks, horizon)))
        ),
    )
    probability = torch.sigmoid(logits).flatten(1).cpu().numpy()
    contact = (data.cost[rows] > 0) & exists
    return (probability * exists).max(1), contact.any(1)
