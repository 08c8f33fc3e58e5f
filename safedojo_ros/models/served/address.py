"""The name of a served policy: where the server is, and how it wants to be asked.

    openpi:ws://HOST:PORT?keys=libero&steps=8

The part after "?" sets the other fields of `ServedAddress`.
"""

from dataclasses import dataclass, fields
from urllib.parse import parse_qsl, urlsplit

from safedojo_ros.core.config import check_ranges, nearest
from safedojo_ros.core.errors import ConfigError
from safedojo_ros.core.types import MAX_PROPOSALS, RESIZES
from safedojo_ros.models.served.keys import KEYS

PREFIX = "openpi:"
MAX_STEPS = 64
"""Longest chunk that the gate takes."""


@dataclass(frozen=True)
class ServedAddress:
    """Raises `ConfigError` for values out of range, or cameras that do not fit the keys."""

    url: str
    """ws://HOST:PORT or wss://HOST:PORT"""
    keys: str = "libero"
    """Convention of the questions and actions: see `models.served.keys`."""
    cameras: tuple[str, ...] = ("agentview", "wrist")
    """This robot's cameras, in the order of the keys' images."""
    image_size: int = 224
    """Side of the square images that the server is sent, pixels, [16, 1024]."""
    resize: str = ""
    """How wide images become square: letterbox, as openpi's clients do, or crop; "": as the
    contract of the cell says."""
    steps: int = 0
    """Leading actions of a server's chunk that are used, [0, 64]; 0: all."""
    proposals: int = 1
    """Most chunks for one decision, [1, 16]; the server computes them one after the other."""
    timeout: float = 1.0
    """Seconds from a question to its answer, [0.01, 4]."""

    def __post_init__(self) -> None:
        check_ranges(self, image_size="[16, 1024]", steps=f"[0, {MAX_STEPS}]")
        check_ranges(self, proposals=f"[1, {MAX_PROPOSALS}]", timeout="[0.01, 4]")
        if self.resize not in ("", *RESIZES):
            raise ConfigError(f"resize is '{self.resize}', expected {' or '.join(RESIZES)}")
        if self.keys not in KEYS:
            raise ConfigError(f"keys are '{self.keys}'{nearest(self.keys, KEYS)}")
        wanted = KEYS[self.keys].images
        if len(self.cameras) != len(wanted) or "" in self.cameras:
            raise ConfigError(
                f"cameras are {','.join(self.cameras)}, keys '{self.keys}' have images for "
                f"{len(wanted)}: {', '.join(wanted)}"
            )


def parse_address(name: str) -> ServedAddress:
    """The address that `name` stands for; raises `ConfigError` that says what is wrong with it."""
    whole = f"'{name}' is no policy server"
    parts = urlsplit(name.removeprefix(PREFIX))
    try:
        sound = parts.scheme in ("ws", "wss") and parts.hostname and parts.port
    except ValueError:  # a port that is no number
        sound = False
    if not name.startswith(PREFIX) or not sound or "@" in parts.netloc:
        raise ConfigError(f"{whole}; expected {PREFIX}ws://HOST:PORT")
    known = {field.name: field.type for field in fields(ServedAddress) if field.name != "url"}
    values: dict[str, object] = {}
    for key, text in parse_qsl(parts.query, keep_blank_values=True):
        if key not in known:
            raise ConfigError(f"{whole}: unknown '{key}'{nearest(key, known)}")
        kind = known[key]
        try:
            values[key] = tuple(text.split(",")) if key == "cameras" else kind(text)  # type: ignore
        except ValueError:
            raise ConfigError(f"{whole}: {key} is '{text}', expected a number") from None
    try:
        return ServedAddress(f"{parts.scheme}://{parts.netloc}{parts.path}", **values)  # type: ignore
    except ConfigError as error:
        raise ConfigError(f"{whole}: {error}") from None
