"""A task of your own in the embedded world: its sentence, what goes where, and when it is done."""

import numpy as np

from safedojo_ros.pipeline.evaluate import Evaluation, evaluate
from safedojo_ros.worlds.tabletop.tasks import Task, add_task


def in_the_basket(task, data, held) -> bool:  # type: ignore[no-untyped-def]
    """What ends the episode, and its reward: metres of the physics, in the base frame."""
    cube, basket = data.body(task.target).xipos, data.body(task.goal).xpos
    return not held and bool(np.all(np.abs(cube - basket) < (0.06, 0.06, 0.04)))


if __name__ == "__main__":
    words = "put the red cube in the basket"
    add_task(Task("cube_in_basket", words, "groceries", "red_cube", "basket", in_the_basket))
    asked = Evaluation(policy="expert:safe", tasks=("cube_in_basket",), level=(0,), episodes=3)
    print(f"{words}: TSR {evaluate(asked).overall.tsr.value:.0%}")
