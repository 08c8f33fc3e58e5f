"""Small checkpoint directories for the tests, written without torch."""

import json
from pathlib import Path

import numpy as np

SPEC = {
    "cameras": ["agentview", "wrist"],
    "image_size": 64,
    "state_size": 8,
    "action_size": 7,
    "chunk_length": 16,
    "period": 0.05,
}
NORMALISATION = {
    "state": {"mean": [0.0] * 8, "scale": [1.0] * 8},
    "action": {"mean": [0.0] * 7, "scale": [1.0] * 7},
}


def safetensors_bytes(header: dict, data: bytes) -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def write_source(directory: Path, value: float = 1.0) -> Path:
    """config.json, a file in a folder, and a model of 24 numbers that all are `value`."""
    (directory / "tokenizer").mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps({"value": value}))
    (directory / "tokenizer" / "tokenizer.json").write_text("{}")
    data = np.full((4, 6), value, np.float32).tobytes()
    header = {"w": {"dtype": "F32", "shape": [4, 6], "data_offsets": [0, len(data)]}}
    (directory / "model.safetensors").write_bytes(safetensors_bytes(header, data))
    return directory


def value_of(directory: Path) -> float:
    """What `write_source` wrote; the weights must agree with the config."""
    value = json.loads((directory / "config.json").read_text())["value"]
    content = (directory / "model.safetensors").read_bytes()
    assert np.all(np.frombuffer(content[-96:], np.float32) == np.float32(value))
    return value
