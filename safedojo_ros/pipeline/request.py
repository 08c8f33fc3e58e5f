"""The fields that the requests of several stages share, and checks of them."""

import dataclasses
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from safedojo_ros.checkpoints.names import SHIPPED
from safedojo_ros.core.config import device_name
from safedojo_ros.core.contract import read_contract
from safedojo_ros.core.errors import ConfigError

if TYPE_CHECKING:
    from safedojo_ros.data.lerobot.frames import Source

T = TypeVar("T")


def named(kind: str, default: T) -> T:
    """A field that names checkpoints of a kind; the command line looks for them at once."""
    names: T = field(default=default, metadata={"checkpoint": kind})
    return names


@dataclass(frozen=True, kw_only=True)
class InStore:
    """A request with names of checkpoints."""

    store: Path | None = None
    """root of the checkpoint store (default: the user's)"""


DEVICE_OPTION = {"parse": partial(device_name, option="--device"), "metavar": "DEVICE"}


@dataclass(frozen=True, kw_only=True)
class OnDevice(InStore):
    """A request that computes with torch."""

    device: str = field(default="auto", metadata=DEVICE_OPTION)
    """auto (a GPU where there is one), cpu, cuda or cuda:N"""


@dataclass(frozen=True, kw_only=True)
class OnData:
    """A request that reads data sets."""

    data: tuple[Path, ...]
    """directories of episodes (safedojo collect, or any LeRobot v3 set with --contract)"""
    contract: str = ""
    """what the columns of another tool's data sets mean: tabletop, libero, droid, franka_realsense
    or a YAML file"""

    @property
    def sources(self) -> "list[Source]":
        """The data sets; raises `ConfigError` for a contract that is none."""
        from safedojo_ros.data.lerobot.frames import Foreign

        if not self.contract:
            return list(self.data)
        contract = read_contract(self.contract)
        return [Foreign(directory, contract) for directory in self.data]


@dataclass(frozen=True, kw_only=True)
class Run(OnDevice):
    """A request that leaves a checkpoint in a directory of its own."""

    out: Path
    """directory of this run"""
    resume: bool = False
    """resume from the last save"""
    publish: bool = False
    """publish the result in the checkpoint store"""
    force: bool = False
    """publish it even if it cannot act or is worse than the policy that serves, and point 'latest'
    to it even if the preset is smoke"""


@dataclass(frozen=True, kw_only=True)
class Imagining(OnDevice):
    """A request that imagines, with three checkpoints."""

    world_model: str = named("world_model", SHIPPED)
    """world model to imagine with: name, id or directory (default: shipped)"""
    success: str = named("success", SHIPPED)
    """success classifier: name, id or directory (default: shipped)"""
    safety: str = named("safety", SHIPPED)
    """safety head: name, id or directory (default: shipped)"""


def check_counts(request: object, *names: str) -> None:
    """Raise `ConfigError` unless these attributes are at least 1, or None."""
    for name in names:
        value = getattr(request, name)
        if value is not None and value < 1:
            raise ConfigError(f"--{name.replace('_', '-')} is {value}, expected at least 1")


def check_unused(request: Any, why: str, *names: str) -> None:
    """Raise `ConfigError` where one of these fields of a dataclass differs from its default."""
    for one in dataclasses.fields(request):
        if one.name in names and getattr(request, one.name) != one.default:
            raise ConfigError(f"--{one.name.replace('_', '-')} {why}")
