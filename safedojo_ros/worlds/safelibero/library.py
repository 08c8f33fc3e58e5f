"""LIBERO's environments without its surprises: no question at import, no download, no pickled code.

LIBERO (MIT) runs on robosuite; both are installed by `./dojo libero`, and SafeLIBERO's scenes are
data that the user brings (see `SAFELIBERO_ROOT`).
"""

import importlib.util
import io
import logging
import os
import pickle
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from safedojo_ros.core.errors import ConfigError
from safedojo_ros.core.files import expand_home, write_whole

SAFELIBERO_ROOT = "SAFELIBERO_ROOT"
"""Environment variable: the folder with SafeLIBERO's `assets`, `bddl_files` and `init_files`."""

SETTINGS = "LIBERO_CONFIG_PATH"
OBSTACLE_FOLDER = "assets/obstacle_objects"

BUILDING_TRIES = 20
PROTOCOL_SEED = 7


def scene_root(root: Path | None = None) -> Path:
    """The folder of SafeLIBERO's scenes: `root`, or what `SAFELIBERO_ROOT` names.

    Raises `ConfigError` where it is not said, or is not such a folder.
    """
    text = os.environ.get(SAFELIBERO_ROOT)
    if root is None and not text:
        raise ConfigError(
            f"where are SafeLIBERO's scenes? Set {SAFELIBERO_ROOT} to the folder that holds its "
            "assets, bddl_files and init_files (safelibero/libero/libero of vlsa-aegis)"
        )
    root = expand_home(root or str(text)).resolve()
    missing = [
        name for name in (OBSTACLE_FOLDER, "bddl_files", "init_files") if not (root / name).is_dir()
    ]
    if missing:
        raise ConfigError(f"{root} lacks {', '.join(missing)}: these are not SafeLIBERO's scenes")
    return root


def make_environment(problem: Path, root: Path) -> Any:
    """LIBERO's `ControlEnv` of the BDDL file `problem`: a Panda under OSC_POSE at 20 Hz, no camera.

    Raises `ConfigError` where the libraries are missing, or objects find no place on the table.
    """
    make = _library(root)
    from robosuite.utils.errors import RandomizationError

    for seed in range(BUILDING_TRIES):  # it draws a first layout, which is not used
        try:
            with _drawing(seed):
                return make(
                    str(problem),
                    use_camera_obs=False,
                    has_offscreen_renderer=False,
                    hard_reset=False,  # a fifth of the time, and states are set exactly
                    ignore_done=True,
                )
        except RandomizationError:
            continue
    raise ConfigError(f"{problem}: its objects find no place in {BUILDING_TRIES} layouts")


def set_state(environment: Any, state: np.ndarray) -> Any:
    """Start an episode of a `make_environment` from a state (S,); returns LIBERO's observation.

    A state has no fixtures: they are drawn with the published protocol's seed.
    """
    with _drawing(PROTOCOL_SEED):
        environment.reset()
    # a reset keeps the gripper's last command and the solver's warm start
    data = environment.sim.data._data
    environment.robots[0].gripper.current_action[:] = 0.0
    data.ctrl[:] = 0.0
    data.qacc_warmstart[:] = 0.0
    return environment.set_init_state(state)


@contextmanager
def _drawing(seed: int) -> Iterator[None]:
    """Seeds numpy's global generator, which LIBERO draws from; restores it afterwards."""
    before = np.random.get_state()  # noqa: NPY002
    np.random.seed(seed)  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(before)  # noqa: NPY002


def read_states(path: Path) -> np.ndarray:
    """(N, S) float64 MuJoCo states of an init file, which is a pickle, read without unpickling.

    Its parts become inert `_Part`s; only their bytes are used. Raises `ConfigError` where the
    file is missing or holds anything but a table of numbers.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            inside = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
            array = _ArrayUnpickler(io.BytesIO(archive.read(inside))).load()
        _, (rows, columns), kind, by_columns, content = array.state
        if (kind.made_of[0], kind.state[1], by_columns) != ("f8", "<", False):
            raise ValueError("not a table of float64, row by row")
        return np.frombuffer(content, "<f8").reshape(rows, columns).copy()
    except Exception as error:  # a broken pickle raises anything
        raise ConfigError(f"cannot read initial states from {path}: {error}") from error


class _Part:
    """A part of a pickled array: its constructor's arguments, and its state."""

    def __init__(self, *made_of: Any) -> None:
        self.made_of = made_of
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _ArrayUnpickler(pickle.Unpickler):
    """Accepts the names that a pickled numpy array needs, and calls none of them."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("_codecs", "encode"):
            return lambda text, _: text.encode("latin1")
        if module.split(".")[0] == "numpy" and name in ("_reconstruct", "ndarray", "dtype"):
            return _Part
        raise pickle.UnpicklingError(f"it names {module}.{name}, which no array needs")


@lru_cache(maxsize=1)
def _library(root: Path) -> Callable[..., Any]:
    """`ControlEnv`, with its paths set and SafeLIBERO's obstacles known to it."""
    for module in ("robosuite", "bddl", "libero"):
        if importlib.util.find_spec(module) is None:
            raise ConfigError(f"the Python package {module} is missing; install it: ./dojo libero")
    _write_settings(root)
    logging.disable(logging.WARNING)  # robosuite warns of a macro file that is not needed
    try:
        import libero.libero

        libero.libero._assets_path_cache = str(root / "assets")  # else it would download them
        from libero.libero.envs.base_object import OBJECTS_DICT
        from libero.libero.envs.env_wrapper import ControlEnv
    finally:
        logging.disable(logging.NOTSET)
    for folder in sorted((root / OBSTACLE_FOLDER).iterdir()):
        OBJECTS_DICT[folder.name] = _obstacle_maker(folder)
    return ControlEnv


def _write_settings(root: Path) -> None:
    """Write the settings that LIBERO reads at import; without them it asks on standard input."""
    if os.environ.get(SETTINGS):
        return
    folder = Path(tempfile.mkdtemp(prefix="safedojo-libero-"))
    paths = {"benchmark_root": root, "bddl_files": root / "bddl_files"}
    paths |= {"init_states": root / "init_files", "assets": root / "assets", "datasets": folder}
    lines = [f"{name}: {str(path)!r}\n" for name, path in paths.items()]
    write_whole(folder / "config.yaml", "".join(lines))
    os.environ[SETTINGS] = str(folder)


def _obstacle_maker(folder: Path) -> Callable[..., Any]:
    """A function that makes a SafeLIBERO obstacle; LIBERO looks it up by the object's category."""
    from robosuite.models.objects import MujocoXMLObject

    def make(name: str = folder.name, **_: Any) -> Any:
        obstacle = MujocoXMLObject(
            str(folder / f"{folder.name}.xml"),
            name=name,
            joints=[{"type": "free", "damping": "0.0005"}],
            obj_type="all",
            duplicate_collision_geoms=False,
        )
        obstacle.category_name = folder.name
        obstacle.rotation, obstacle.rotation_axis = (0, 0), "x"
        obstacle.object_properties = {"vis_site_names": {}}
        return obstacle

    return make
