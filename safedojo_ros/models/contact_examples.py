"""Contact examples in and out of a checkpoint's directory. No torch."""

from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from safedojo_ros.core.contact_examples import ContactExamples
from safedojo_ros.core.errors import CheckpointError
from safedojo_ros.core.tensor_file import read_header
from safedojo_ros.core.types import ACTION_SIZE, STATE_SIZE

EXAMPLES_FILE = "contact_examples.safetensors"
MAX_BYTES = 64 * 1024 * 1024
TYPES = {"images": "U8", "scene": "I32", "state": "F32", "chunks": "F32", "contact": "U8"}


def write_examples(examples: ContactExamples, directory: Path) -> None:
    """Write the examples into an existing directory; the cameras are the checkpoint's."""
    arrays = {name: np.ascontiguousarray(getattr(examples, name)) for name in TYPES}
    arrays["contact"] = arrays["contact"].astype(np.uint8)
    save_file(arrays, str(directory / EXAMPLES_FILE))


def read_examples(
    directory: Path,
    cameras: tuple[str, ...],
    image_size: int,
    chunk_length: int,
    state_size: int = STATE_SIZE,
    action_size: int = ACTION_SIZE,
) -> ContactExamples | None:
    """The examples of a checkpoint whose model has these cameras, images, chunks and sizes.

    None where there is no such file. Raises `CheckpointError`.
    """
    path = directory / EXAMPLES_FILE
    if not path.is_file():
        return None
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            if size > MAX_BYTES:
                raise CheckpointError(f"{EXAMPLES_FILE} has {size} bytes, at most {MAX_BYTES}")
            header = read_header(file, size, EXAMPLES_FILE)
        found = {name: entry.dtype for name, entry in header.items()}
        if found != TYPES:
            raise CheckpointError(f"{EXAMPLES_FILE} holds {found!s:.200}, expected {TYPES}")
        arrays = load_file(str(path))
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{EXAMPLES_FILE} cannot be read: {error!s:.200}") from None
    arrays["contact"] = arrays["contact"].astype(np.bool_)
    examples = ContactExamples(
        cameras=cameras, state_size=state_size, action_size=action_size, **arrays
    )
    if (examples.image_size, examples.chunk_length) != (image_size, chunk_length):
        raise CheckpointError(
            f"{EXAMPLES_FILE} has images of {examples.image_size} px and chunks of "
            f"{examples.chunk_length} steps, the head's are {image_size} and {chunk_length}"
        )
    return examples
