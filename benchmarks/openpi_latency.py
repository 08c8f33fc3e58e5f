"""What a policy behind openpi's protocol costs beyond its computing, beside the same in-process.

`python benchmarks/openpi_latency.py` serves the policy that ships from a process of its own on this
machine, asks it by `models.served`, and asks it in-process too; both in turn, on the same images.
Beyond compute is a question's time less what the server says that it computed.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from demo_stack import machine

from safedojo_ros.checkpoints.names import DEFAULT_POLICY, find_checkpoint
from safedojo_ros.core.types import Observation, empty_scene
from safedojo_ros.models.loading import load_policy
from safedojo_ros.models.pi0_policy import PI0Policy
from safedojo_ros.models.served.policy import ServedPolicy, open_served
from safedojo_ros.models.served.server import policy_server
from safedojo_ros.models.threads import use_processor

WARM_UP = 5
"""Questions that do not count."""


def shipped() -> PI0Policy:
    """The policy that ships, on one thread."""
    use_processor(1)
    return load_policy(find_checkpoint("policy", DEFAULT_POLICY))


def serve() -> int:
    """The server's process: prints its port, then answers."""
    policy = shipped()

    def infer(question: dict[str, Any]) -> dict[str, Any]:
        images = {
            "agentview": question["observation/image"][:: stride(question), :: stride(question)],
            "wrist": question["observation/wrist_image"][:: stride(question), :: stride(question)],
        }
        seen = Observation(images, question["observation/state"], question["prompt"])
        return {"actions": policy.act([seen])[0]}

    def stride(question: dict[str, Any]) -> int:
        return len(question["observation/image"]) // policy.image_size

    server = policy_server(infer, "127.0.0.1", 0, {"policy": policy.checkpoint_id})
    print(server.socket.getsockname()[1], flush=True)
    server.serve_forever()
    return 0


def scene(policy: PI0Policy, side: int, seed: int) -> Observation:
    """Random images: nothing about time depends on what they show."""
    random = np.random.default_rng(seed)
    still = empty_scene(policy.cameras, side, policy.instructions[0])
    images = {n: random.integers(0, 256, i.shape, np.uint8) for n, i in still.images.items()}
    return Observation(images, still.state, still.instruction)


def measure(local: PI0Policy, remote: ServedPolicy, side: int, count: int) -> dict[str, Any]:
    """Milliseconds of `count` questions each way, in turn, with images of `side` pixels."""
    times: dict[str, list[float]] = {"in-process": [], "served": [], "beyond compute": []}
    for number in range(WARM_UP + count):
        seen, sent = (scene(local, s, number) for s in (local.image_size, side))
        started = time.monotonic()
        local.act([seen])
        between = time.monotonic()
        question = remote.keys.question(sent, remote.cameras)
        answer = remote.connection.ask(question)
        remote.keys.actions(np.asarray(answer["actions"], np.float64), sent)
        ended = time.monotonic()
        if number >= WARM_UP:
            whole = (ended - between) * 1e3
            times["in-process"].append((between - started) * 1e3)
            times["served"].append(whole)
            times["beyond compute"].append(whole - answer["server_timing"]["infer_ms"])
    return {
        name: {p: round(float(np.percentile(t, q)), 2) for p, q in (("median", 50), ("p99", 99))}
        for name, t in times.items()
    }


def main() -> int:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--questions", type=int, default=300)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        return serve()
    command = [sys.executable, __file__, "--serve"]
    figures: dict[str, Any] = {}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            port, local = int(server.stdout.readline()), shipped()
            print(machine())
            print(f"policy {local.checkpoint_id}, {options.questions} questions, two cameras")
            for side in (local.image_size, 256):
                remote = open_served(f"openpi:ws://127.0.0.1:{port}?keys=tabletop&timeout=4")
                figures[f"{side} px"] = found = measure(local, remote, side, options.questions)
                remote.close()
                for name, value in found.items():
                    label = f"{side} px, {name}, median / p99 ms"
                    print(f"{label:46s} {value['median']} / {value['p99']}")
        finally:
            server.terminate()
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
