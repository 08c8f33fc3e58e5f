"""Images need no display, whatever the environment says of one."""

import os
import subprocess
import sys

import pytest

IMAGE = """
from safedojo_ros.worlds.tabletop.world import TabletopWorld
world = TabletopWorld()
world.reset(seed=1, options={"task": "cube_on_plate", "level": 0})
assert world.images()["agentview"].std() > 1
"""


@pytest.mark.parametrize("display", [None, ":7"])
def test_the_world_draws_without_a_display_and_without_settings(display: str | None) -> None:
    unset = ("DISPLAY", "MUJOCO_GL", "PYOPENGL_PLATFORM", "LP_NUM_THREADS")
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    if display:
        environment["DISPLAY"] = display
    subprocess.run([sys.executable, "-c", IMAGE], env=environment, check=True)
