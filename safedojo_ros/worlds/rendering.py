"""Off-screen pictures of scene models, through as few OpenGL contexts as there can be.

The tabletop's scenes are primitives without textures, so one rendering context serves all of them;
a second context in one process returns nonsense under OSMesa, but not under EGL.
"""

import atexit
from functools import lru_cache

import mujoco
import numpy as np


class PictureMaker:
    """Renders (H, W, 3) uint8 RGB pictures; not thread-safe.

    model: whose textures and meshes, if it has any, go into the context; maxgeom: most shapes in
    one picture; sky: also draw reflections and what lies behind everything; hidden: the group of
    shapes that is not drawn.
    """

    def __init__(
        self,
        model: mujoco.MjModel,
        width: int = 1280,
        height: int = 960,
        maxgeom: int = 200,
        sky: bool = False,
        hidden: int | None = None,
    ) -> None:
        self._sky = sky
        self._gl = mujoco.GLContext(width, height)
        self._gl.make_current()
        self._context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)
        self._scene = mujoco.MjvScene(model, maxgeom=maxgeom)
        self._option = mujoco.MjvOption()
        self._option.sitegroup[:] = 0
        if hidden is not None:
            self._option.geomgroup[hidden] = 0
        self._camera = mujoco.MjvCamera()
        self._camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
        self._perturb = mujoco.MjvPerturb()

    def render(
        self,
        model: mujoco.MjModel,
        data: mujoco.MjData,
        camera: str,
        width: int,
        height: int,
        shadows: bool = False,
    ) -> np.ndarray:
        """One picture of `camera`; shadows cost about four times the time."""
        self._gl.make_current()
        self._camera.fixedcamid = model.camera(camera).id
        flags = self._scene.flags
        flags[mujoco.mjtRndFlag.mjRND_SHADOW] = shadows
        flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = self._sky
        flags[mujoco.mjtRndFlag.mjRND_SKYBOX] = self._sky
        mujoco.mjv_updateScene(
            model,
            data,
            self._option,
            self._perturb,
            self._camera,
            mujoco.mjtCatBit.mjCAT_ALL.value,
            self._scene,
        )
        viewport = mujoco.MjrRect(0, 0, width, height)
        mujoco.mjr_render(viewport, self._scene, self._context)
        picture = np.empty((height, width, 3), dtype=np.uint8)
        mujoco.mjr_readPixels(picture, None, viewport, self._context)
        return picture[::-1].copy()


@lru_cache(maxsize=1)
def picture_maker() -> PictureMaker:
    """The process's one picture maker of the tabletop."""
    from safedojo_ros.worlds.tabletop.scene import compile_scene

    maker = PictureMaker(compile_scene("groceries", None))
    atexit.register(picture_maker.cache_clear)  # before MuJoCo gives up its context's display
    return maker
