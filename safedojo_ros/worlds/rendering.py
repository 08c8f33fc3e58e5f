"""Off-screen images of scene models, with as few OpenGL contexts as possible.

The tabletop's scenes are primitives without textures, so one rendering context serves all of them;
a second context in one process returns nonsense under OSMesa, but not under EGL.
"""

import atexit
from functools import lru_cache

import cv2
import mujoco
import numpy as np

SAMPLES = 3
"""Samples of a pixel a side, where a policy sees: a camera's pixel integrates light, and a point
sample hides where things are. By the table of `benchmarks/pictures.py`."""


DRAWN = ("geom_xpos", "geom_xmat", "cam_xpos", "cam_xmat", "light_xpos", "light_xdir")
"""What an image shows of the physics."""


def view_of(data: mujoco.MjData) -> np.ndarray:
    """(N,) float64: all that images of `data` show, to draw them later."""
    return np.concatenate([getattr(data, name).ravel() for name in DRAWN])


def data_of_view(model: mujoco.MjModel, view: np.ndarray) -> mujoco.MjData:
    """Data of `model` whose images are those of a `view_of`; no physics can be done with it."""
    data, at = mujoco.MjData(model), 0
    for name in DRAWN:
        part = getattr(data, name)
        part.ravel()[:] = view[at : at + part.size]
        at += part.size
    return data


class Renderer:
    """Renders (H, W, 3) uint8 RGB images; not thread-safe.

    model: its textures and meshes, if any, are loaded into the context; maxgeom: most shapes in one
    image; sky: also draw reflections and the skybox; hidden: the group of shapes that is not drawn.
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
        self._sky, self._most = sky, (width, height)
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
        samples: int = 1,
    ) -> np.ndarray:
        """One image of `camera`; with shadows it takes about four times as long.

        samples: each pixel is the mean of as many samples a side, or of fewer, as many as fit the
        context.
        """
        samples = max(1, min(samples, self._most[0] // width, self._most[1] // height))
        if samples > 1:
            drawn = self.render(model, data, camera, samples * width, samples * height, shadows)
            return cv2.resize(drawn, (width, height), interpolation=cv2.INTER_AREA)
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
        image = np.empty((height, width, 3), dtype=np.uint8)
        mujoco.mjr_readPixels(image, None, viewport, self._context)
        return image[::-1].copy()


@lru_cache(maxsize=1)
def tabletop_renderer() -> Renderer:
    """The process's one renderer of the tabletop."""
    from safedojo_ros.worlds.tabletop.scene import compile_scene

    renderer = Renderer(compile_scene("groceries", None))
    atexit.register(tabletop_renderer.cache_clear)  # before MuJoCo closes its context's display
    return renderer
