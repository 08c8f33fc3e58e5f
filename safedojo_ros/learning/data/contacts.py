"""Training data of the safety head: recorded frames, probes of their scenes, imagined states.

Until the obstacle is first touched, every image of an episode shows it in the same place. So each
image is paired with its own state and chunk, and with those of other frames of its episode and of
probes of its scene.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from safedojo_ros.core.costs import labelled
from safedojo_ros.core.errors import DatasetError
from safedojo_ros.data.lerobot.frames import Source, load_frames, open_all, steps_ahead
from safedojo_ros.data.lerobot.probes import read_probes
from safedojo_ros.data.lerobot.reader import EpisodeReader, FrameArrays
from safedojo_ros.learning.data.latent_episodes import LatentEpisodes
from safedojo_ros.learning.data.latents import recorded_latents
from safedojo_ros.learning.data.replay import draw_starts, replay
from safedojo_ros.models.safety_head import SafetyModel
from safedojo_ros.models.world_model import WorldModel


@dataclass
class SceneProbes:
    """Probes of the scenes of E episodes, normalised; see `core.probes`.

    state: (N, 8); chunks: (N, H, 7); contact: (N, H); first, count: (E,) which rows are an
    episode's, count 0 where it has none.
    """

    state: torch.Tensor
    chunks: torch.Tensor
    contact: torch.Tensor
    first: torch.Tensor
    count: torch.Tensor

    def drawn(
        self, episode: torch.Tensor, count: int, generator: torch.Generator
    ) -> tuple[torch.Tensor, ...]:
        """State (B, K, 8), chunks (B, K, H, 7), contact (B, K, H) and existence (B, K, H) of K
        random probes of each `episode` (B,)."""
        share = torch.rand(len(episode), count, generator=generator)
        most = self.count[episode][:, None]
        # an episode without any is given another's, which does not exist
        rows = (self.first[episode][:, None] + (share * most).long()).clamp(max=len(self.state) - 1)
        contact = self.contact[rows]
        exists = (most > 0)[..., None].expand_as(contact).float()
        return self.state[rows], self.chunks[rows], contact, exists


@dataclass
class ContactFrames:
    """Training data of the head, one row for each frame.

    latents: (N, cameras·C, s, s) float16; state: (N, 8); chunks: (N, H, 7) executed actions;
    contact: (N, H); exists: (N, H), false past the episode's end; episode: (N,) its index; begin:
    (N,) the recorded row that its episode begins with; untouched: (N,) for how many rows from there
    on the obstacle stays where this row's image shows it, 0 where it may have been moved; probes:
    of the episodes' scenes, None where no data set has any; others: (N, H, O), which of the steps
    have which of the costs that the head predicts beside contact.
    """

    latents: torch.Tensor
    state: torch.Tensor
    chunks: torch.Tensor
    contact: torch.Tensor
    exists: torch.Tensor
    episode: np.ndarray
    begin: torch.Tensor
    untouched: torch.Tensor
    others: torch.Tensor
    probes: SceneProbes | None = None

    def of(self, rows: torch.Tensor) -> "ContactFrames":
        """The frames of these rows (int64)."""
        return ContactFrames(
            self.latents[rows],
            self.state[rows],
            self.chunks[rows],
            self.contact[rows],
            self.exists[rows],
            self.episode[rows.numpy()],
            self.begin[rows],
            self.untouched[rows],
            self.others[rows],
            self.probes,
        )


def scene_untouched(cost: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """(N,) `ContactFrames.untouched` of recorded frames: up to the one before the first contact.

    cost: (N,) of each step; starts: (E + 1,) first frame of each episode.
    """
    counts = []
    for first, end in zip(starts[:-1], starts[1:], strict=True):
        touched = np.flatnonzero(cost[first:end] > 0)
        count = touched[0] + 1 if len(touched) else end - first
        counts.append(np.where(np.arange(end - first) < count, count, 0))
    return np.concatenate(counts)


def chunks_ahead(
    frames: FrameArrays, rows: np.ndarray, length: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Executed actions (B, H, 7), contact and existence (B, H) bool of the steps from `rows` (B,).

    Beyond the episode's end there is neither action nor contact.
    """
    steps, exists = steps_ahead(rows, frames.starts[1:][frames.episode[rows]], length)
    actions = np.where(exists[..., None], frames.actions[steps], 0.0).astype(np.float32)
    return actions, (frames.cost[steps] > 0) & exists, exists


def check_labels(sources: Sequence[Source]) -> None:
    """Raise `DatasetError` where nobody, or a safety head, says which steps have contact.

    A head that learned from what a head predicted would only confirm it.
    """
    rows = [row for reader in open_all(sources) for row in reader.rows]
    for source, what in (("predicted", "a safety head's own prediction"), ("", "not known")):
        count = sum(row.cost_source == source for row in rows)
        if count:
            raise DatasetError(
                f"contact is {what} in {count} of {len(rows)} episodes; leave these out, or label "
                "them: by --free-motion of bag-to-dataset, or a column that the contract names, "
                "labels.cost"
            )


def recorded_contacts(
    sources: Sequence[Source], model: SafetyModel, device: str = "cpu"
) -> ContactFrames:
    """Encode every frame of the data sets; raises `DatasetError` where there is none."""
    readers = open_all(sources)
    frames = load_frames(readers, images=False)
    latents = [recorded_latents(reader, model.autoencoder, device) for reader in readers]
    every = np.arange(len(frames.state))
    actions, contact, exists = chunks_ahead(frames, every, model.chunk_length)
    names = [each.name for each in model.others]
    others = labelled(names, frames.state, frames.actions, frames.starts)
    steps, _ = steps_ahead(every, frames.starts[1:][frames.episode], model.chunk_length)
    return ContactFrames(
        torch.cat(latents).flatten(1, 2),
        model.scales.state.normalise(torch.from_numpy(frames.state)),
        model.scales.action.normalise(torch.from_numpy(actions)),
        torch.from_numpy(contact.astype(np.float32)),
        torch.from_numpy(exists.astype(np.float32)),
        frames.episode,
        torch.from_numpy(frames.starts[:-1][frames.episode]),
        torch.from_numpy(scene_untouched(frames.cost, frames.starts)),
        torch.from_numpy(others[steps].astype(np.float32)),
        recorded_probes(readers, model),
    )


def recorded_probes(readers: Sequence[EpisodeReader], model: SafetyModel) -> SceneProbes | None:
    """The probes beside the data sets, whose episodes are counted on."""
    length, parts, numbers, before = model.chunk_length, [], [], 0
    for reader in readers:
        found = read_probes(reader.root, len(reader), length)
        if found is not None and len(found[0]):
            numbers.append(found[0] + before)
            parts.append(found[1])
        before += len(reader)
    if not parts:
        return None
    count = np.bincount(np.concatenate(numbers), minlength=before)
    state, actions, contact = (
        torch.from_numpy(np.concatenate(column)) for column in zip(*parts, strict=True)
    )
    return SceneProbes(
        model.scales.state.normalise(state),
        model.scales.action.normalise(actions),
        contact.float(),
        torch.from_numpy(np.cumsum(count) - count),
        torch.from_numpy(count),
    )


def imagined_contacts(
    model: SafetyModel,
    world: WorldModel,
    data: LatentEpisodes,
    replays: int,
    chunks: int,
    seed: int,
) -> ContactFrames:
    """Recorded actions replayed in imagination: the state at the end of every chunk but the last.

    Chunk and contacts are the recorded ones that follow. The image is the real one that the future
    started from, since `learning.rl.imagined_world` predicts costs with it. `data` must have the
    episodes of the recorded frames, in the same order. Raises `DatasetError` where no episode is
    long enough.
    """
    size, rng = world.size, np.random.default_rng(seed)
    starts = draw_starts(data, chunks * size.chunk_length, replays, rng)
    states = replay(world, data, starts, chunks, seed).states
    # no chunk follows the last one
    state = world.scales.state.restore(states[:, size.chunk_length - 1 : -1 : size.chunk_length])
    ahead = torch.arange(1, chunks)[:, None] * size.chunk_length
    rows = starts.first[:, None, None] + ahead + torch.arange(model.chunk_length)
    actions = world.scales.action.restore(data.actions[rows]).flatten(0, 1)
    contact = torch.from_numpy((data.cost[rows.numpy()] > 0).astype(np.float32)).flatten(0, 1)
    others = labelled(
        [cost.name for cost in model.others],
        world.scales.state.restore(data.state).numpy(),
        world.scales.action.restore(data.actions).numpy(),
        data.starts,
    )
    each = torch.arange(len(starts.first)).repeat_interleave(chunks - 1)
    untouched = torch.from_numpy(scene_untouched(data.cost, data.starts))
    return ContactFrames(
        world.stacked(data.latents[starts.first])[each],
        model.scales.state.normalise(state.flatten(0, 1)),
        model.scales.action.normalise(actions),
        contact,
        torch.ones_like(contact),
        starts.episode[each.numpy()],
        starts.start[each],
        untouched[starts.first][each],
        torch.from_numpy(others[rows.numpy()].astype(np.float32)).flatten(0, 1),
    )


def query_batch(
    sources: list[ContactFrames],
    known: list[torch.Tensor],
    counts: Sequence[int],
    queries: int,
    generator: torch.Generator,
    probes: int = 0,
) -> list[torch.Tensor]:
    """Latents (B, …) of random rows and, for K frames each, state, chunks, contact, exists, others.

    sources: recorded frames, and imagined ones if any; known: the rows of each that may be trained
    on; counts: images of each; queries, probes: together K. A row's own frame comes first. The
    others are recorded frames of its episode, then probes of its scene where the recorded frames
    have any; `exists` is false for them where the obstacle in the row's image may have been moved.
    Of probes only contact is known: their others are NaN.
    """
    recorded, others, parts = sources[0], queries - 1, []
    for frames, rows, count in zip(sources, known, counts, strict=False):
        own = frames.of(rows[torch.randint(len(rows), (count,), generator=generator)])
        share = torch.rand(count, others, generator=generator)
        at = own.begin[:, None] + (share * own.untouched[:, None]).long()
        exists = recorded.exists[at] * (own.untouched > 0)[:, None, None]
        columns = [
            torch.cat([mine[:, None], theirs], dim=1)
            for mine, theirs in (
                (own.state, recorded.state[at]),
                (own.chunks, recorded.chunks[at]),
                (own.contact, recorded.contact[at]),
                (own.exists, exists),
                (own.others, recorded.others[at]),
            )
        ]
        if recorded.probes is not None and probes:
            episode = torch.from_numpy(own.episode)
            *drawn, there = recorded.probes.drawn(episode, probes, generator)
            there = there * (own.untouched > 0)[:, None, None]
            unknown = there.new_full((*there.shape, own.others.shape[-1]), torch.nan)
            drawn += [there, unknown]
            columns = [torch.cat(p, dim=1) for p in zip(columns, drawn, strict=True)]
        parts.append([own.latents, *columns])
    return [torch.cat(column) for column in zip(*parts, strict=True)]
