"""Contact examples from recorded episodes, to travel with the safety head that they examine.

Scenes in which the obstacle was touched give chunks that ran into it and chunks that did not, so
that no head passes by the image alone; scenes in which nothing was touched give free chunks only.
"""

from collections.abc import Sequence

import numpy as np

from safedojo_ros.core.contact_examples import ContactExamples
from safedojo_ros.core.types import Observation
from safedojo_ros.data.lerobot.frames import Source, load_frames, open_all
from safedojo_ros.data.lerobot.reader import FrameArrays
from safedojo_ros.learning.data.contacts import chunks_ahead
from safedojo_ros.models.images import stack_images, to_uint8
from safedojo_ros.models.safety_head import SafetyModel

TOUCHED_SCENES, FREE_SCENES = 9, 3
"""How many of each kind, one an episode: 12 pairs of images of 64 pixels are 300 KB."""
EACH = 4
"""Chunks of a kind from one scene."""


def contact_examples(
    sources: Sequence[Source], model: SafetyModel, episodes: Sequence[int], seed: int = 0
) -> ContactExamples | None:
    """Examples for `model` from these episodes, numbered through all data sets.

    None where they do not hold both kinds. The episodes must be held out: a head that has learned
    from them would pass by memory.
    """
    readers = open_all(sources)
    frames = load_frames(readers, images=False)
    rng = np.random.default_rng(seed)
    chosen: list[tuple[int, int, list[tuple[int, bool]]]] = []
    left = {True: TOUCHED_SCENES, False: FREE_SCENES}
    for episode in rng.permutation(np.asarray(sorted(episodes), dtype=np.int64)):
        touched, frame, rows = _scene(frames, int(episode), model.chunk_length, rng)
        if rows and left[touched]:
            left[touched] -= 1
            chosen.append((int(episode), frame, rows))
    marks = [mark for _, _, some in chosen for _, mark in some]
    if not any(marks) or all(marks):
        return None
    begins = np.array([row for _, _, some in chosen for row, _ in some])
    actions, _, _ = chunks_ahead(frames, begins, model.chunk_length)
    places = [(reader, number) for reader in readers for number in range(len(reader))]
    images = []
    for episode, frame, _ in chosen:
        reader, number = places[episode]
        part = reader.load_arrays([number])
        pictures = dict(zip(part.cameras, part.images[frame - frames.starts[episode]], strict=True))
        seen = Observation(pictures, frames.state[frame], "wait")
        shown = stack_images([seen], model.cameras, model.image_size, model.scales.state_size)
        images.append(to_uint8(shown)[0].numpy())
    return ContactExamples(
        cameras=model.cameras,
        images=np.stack(images),
        scene=np.repeat(np.arange(len(chosen), dtype=np.int32), [len(r) for _, _, r in chosen]),
        state=frames.state[begins].astype(np.float32),
        chunks=actions,
        contact=np.array(marks, dtype=np.bool_),
        state_size=model.scales.state_size,
        action_size=model.scales.action_size,
    )


def _scene(
    frames: FrameArrays, episode: int, length: int, rng: np.random.Generator
) -> tuple[bool, int, list[tuple[int, bool]]]:
    """(whether it was touched, the row whose image is shown, rows with whether contact follows).

    Chunks begin before the first contact, since the image must show the obstacle where it stands,
    and end within the episode. A free one stays free for another chunk's length, so that no example
    is a matter of one step. The image is of the frame just before the chunks with contact.
    """
    first, end = int(frames.starts[episode]), int(frames.starts[episode + 1])
    touches = np.flatnonzero(frames.cost[first:end] > 0)
    hit = first + int(touches[0]) if len(touches) else end
    before = np.arange(first, min(hit - 2 * length, end - length) + 1)
    free = rng.choice(before, min(EACH, len(before)), replace=False)
    rows = [(int(row), False) for row in sorted(free)]
    if not len(touches):
        return False, int(rng.choice(before)) if len(before) else first, rows
    into = np.arange(max(first, hit - length + 1), min(hit, end - length) + 1)
    into = rng.choice(into, min(EACH, len(into)), replace=False)
    return True, max(first, hit - length), rows + [(int(row), True) for row in sorted(into)]
