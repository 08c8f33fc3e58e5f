"""Gymnasium environments: the embedded tabletop world, its experts, and their vector form."""

import os

# MuJoCo reads these when it is first imported, and every module of this room imports it.
os.environ.setdefault("MUJOCO_GL", "egl")
os.environ.setdefault("LP_NUM_THREADS", "0")  # Mesa's worker threads cost more than they give
