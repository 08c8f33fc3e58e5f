"""Publishers are killed at random instants, and every read of the store gives a whole checkpoint.

`python benchmarks/store.py` forks a publisher (which also pins, prunes and moves `latest` back) 500
times, reads the store while it works, ends it with SIGKILL at a random instant, and reads
everything again. It prints how many reads there were, and exits with 1 unless all were whole and
nothing that had been promised was lost.
"""

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from safedojo_ros.checkpoints.provenance import revision
from safedojo_ros.checkpoints.store.retention import pin, prune, unpin
from safedojo_ros.checkpoints.store.store import CheckpointStore
from safedojo_ros.core.errors import CheckpointError

KEEP = 4
"""How many checkpoints the publishers leave."""
LONGEST = 0.2
"""Seconds that a publisher lives, at most."""
VALUES = 6
"""Number of different checkpoints that are published in turn."""


@dataclass
class Outcome:
    """What the reader saw. faults: a sentence for each read that was not whole."""

    kills: int = 0
    kills_while_publishing: int = 0
    reads: int = 0
    publications: int = 0
    faults: list[str] = field(default_factory=list)


def write_sources(folder: Path) -> list[Path]:
    """Checkpoint directories whose every file says the same number."""
    sources = []
    for value in range(VALUES):
        directory = folder / f"source{value}"
        (directory / "tokenizer").mkdir(parents=True)
        (directory / "config.json").write_text(f'{{"value": {value}}}')
        (directory / "tokenizer" / "tokenizer.json").write_text(f'{{"value": {value}}}')
        data = np.full(4096, value, np.float32).tobytes()
        header = b'{"w": {"dtype": "F32", "shape": [4096], "data_offsets": [0, %d]}}' % len(data)
        prefix = len(header).to_bytes(8, "little") + header
        (directory / "model.safetensors").write_bytes(prefix + data)
        sources.append(directory)
    return sources


def fault_of(directory: Path) -> str:
    """Why the files of a checkpoint do not belong together, or ""."""
    try:
        says = (directory / "config.json").read_bytes()
        other = (directory / "tokenizer" / "tokenizer.json").read_bytes()
        weights = np.frombuffer((directory / "model.safetensors").read_bytes()[-16384:], np.float32)
    except FileNotFoundError as error:
        return "" if not directory.exists() else f"{directory} lacks {error.filename}"
    value = float(says.split(b":")[1].rstrip(b"}"))
    whole = says == other and bool(np.all(weights == value))
    return "" if whole else f"{directory} is mixed: {says!r}, {other!r}, {set(weights.tolist())}"


def publish_until_killed(store: CheckpointStore, sources: list[Path], pipe: int) -> None:
    """The child: publish, pin, unpin, prune and move `latest`; tell what is promised."""
    for number in range(1_000_000):
        os.write(pipe, b".")
        manifest = store.publish("policy", sources[number % len(sources)], spec={})
        os.write(pipe, f"{manifest.id}\n".encode())
        if number % 3 == 0:
            store.set_latest("policy", store.list("policy")[-1].id)
            store.set_latest("policy", manifest.id)
        if number % 4 == 0:
            pin(store, "policy", manifest.id)
            unpin(store, "policy", manifest.id)
        prune(store, "policy", KEEP)


def read(store: CheckpointStore, outcome: Outcome) -> None:
    """Resolve `latest` and look into it."""
    outcome.reads += 1
    try:
        fault = fault_of(store.resolve("policy"))
    except CheckpointError as error:
        fault = str(error)
    if fault:
        outcome.faults.append(fault)


def read_everything(store: CheckpointStore, outcome: Outcome, promised: list[str]) -> None:
    """With no publisher alive: all are whole, the newest promise is there, `latest` resolves."""
    outcome.faults += store.broken("policy")
    present = []
    for manifest in store.list("policy"):
        outcome.reads += 1
        try:
            store.verify("policy", manifest.id)
        except CheckpointError as error:
            outcome.faults.append(str(error))
            continue
        present.append(manifest.id)
        fault = fault_of(store.root / "policy" / manifest.id)
        if fault:
            outcome.faults.append(fault)
    if promised and promised[-1] not in present:
        outcome.faults.append(f"{promised[-1]} was promised and is gone")
    read(store, outcome)


def kill_publishers(folder: Path, kills: int, seed: int = 0) -> Outcome:
    """Fork a publisher and kill it, `kills` times, in an empty `folder`."""
    rng, outcome = random.Random(seed), Outcome()
    store, sources = CheckpointStore(folder / "store"), write_sources(folder)
    revision()  # asked once here, not by every child
    store.publish("policy", sources[0], spec={})
    while outcome.kills < kills:
        receive, send = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                os.close(receive)
                publish_until_killed(store, sources, send)
            finally:
                os._exit(3)
        os.close(send)
        os.read(receive, 1)  # it is at work
        end = time.monotonic() + rng.uniform(0.0, LONGEST)
        while time.monotonic() < end:
            read(store, outcome)
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        told = b""
        while block := os.read(receive, 65536):
            told += block
        os.close(receive)
        if not os.WIFSIGNALED(status):
            outcome.faults.append(f"a publisher ended by itself with status {status}")
        outcome.kills += 1
        outcome.kills_while_publishing += not told or told.endswith(b".")
        promised = [line.lstrip(".") for line in told.decode().split("\n")[:-1]]
        outcome.publications += len(promised)
        read_everything(store, outcome, promised)
    store.publish("policy", sources[0], spec={})
    left = list((store.root / ".staging").iterdir())
    if left:
        outcome.faults.append(f"litter: {left}")
    return outcome


def main() -> int:
    """Print the outcome; 1 unless every read was whole."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        outcome = kill_publishers(Path(folder), options.kills, options.seed)
    print(f"{outcome.kills} publishers killed, {outcome.kills_while_publishing} while publishing")
    print(f"{outcome.publications} publications had been promised")
    print(f"{outcome.reads} reads, {outcome.reads - len(outcome.faults)} whole")
    for fault in outcome.faults[:10]:
        print(f"FAULT: {fault}")
    return 1 if outcome.faults else 0


if __name__ == "__main__":
    sys.exit(main())
