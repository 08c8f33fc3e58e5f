"""A reward of your own: a task that is there, done by a stricter rule."""

from dataclasses import replace

import numpy as np

from safedojo_ros.pipeline.evaluate import Evaluation, evaluate
from safedojo_ros.worlds.tabletop.tasks import TASKS, add_task


def centred(task, data, held) -> bool:  # type: ignore[no-untyped-def]
    """On the plate, and its middle within 1 cm of the plate's."""
    aside = np.linalg.norm((data.body(task.target).xipos - data.body(task.goal).xipos)[:2])
    return TASKS["cube_on_plate"].done(task, data, held) and bool(aside < 0.01)


if __name__ == "__main__":
    add_task(replace(TASKS["cube_on_plate"], name="cube_centred", done=centred))
    for name in ("cube_on_plate", "cube_centred"):
        asked = Evaluation(policy="expert:safe", tasks=(name,), level=(0,), episodes=4)
        print(f"{name}: TSR {evaluate(asked).overall.tsr.value:.0%}")
