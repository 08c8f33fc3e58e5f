"""Swaps under a moving arm: what they cost the control tick, the memory, and how soon they act.

`python benchmarks/hot_swap.py` runs the demonstration's nodes in real time (20 Hz) on the embedded
world, publishes two policies of different weights, and moves the store's `latest` from one to the
other 200 times while the policy node follows it. It prints, with the bars of the project:

- control ticks that were missed;
- chunks whose checkpoint id and content disagree: both policies are the one of --policy, with a
  rotation about the vertical (0.1 degrees a step) in their weights whose sign tells them apart in
  every step of a chunk, and with noise of 0.1 % on all other weights of the second;
- resident memory of the policy node before the first and after the last swap;
- from the publication (the pointer's own time) to the first action of the new weights (the stamp
  of its control tick).
"""

import argparse
import json
import os
import sys
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from rclpy.node import Node

from safedojo_ros.checkpoints.names import DEFAULT_POLICY, SHIPPED, find_checkpoint
from safedojo_ros.checkpoints.store.store import CheckpointStore
from safedojo_ros.msg import ActionChunk, ArmTarget, CheckpointInfo
from safedojo_ros.nodes.conversion import to_nanoseconds
from safedojo_ros.nodes.lifecycle import IN_ORDER, LATCHED
from safedojo_ros.nodes.stack.dds import DomainLease
from safedojo_ros.nodes.stack.demo_observer import ObserverThread, RunFigures, percentiles
from safedojo_ros.nodes.stack.processes import StackProcesses, node_process
from safedojo_ros.nodes.stack.registry import DEMO
from safedojo_ros.nodes.stack.ros_environment import prepare_environment

MEMORY_BAR = 0.10
"""Share by which the policy node's memory may differ at the end."""
SIGNATURE = 0.002
"""Rotation about the vertical (rad a step) by which the two policies are told apart."""
VERTICAL = 5
"""Its place among the seven numbers of an action."""
WARM_UP = 5.0
"""Seconds of motion before the first swap."""
START_TIME, SWAP_TIME = 120.0, 60.0
"""Longest wait for motion, and for one swap (s)."""


def publish_signed(store: CheckpointStore, folder: Path, sign: float, source: Path) -> str:
    """Publish the policy of `source` with a signature in its weights; returns its id."""
    import torch

    from safedojo_ros.models.normalisation import Affine, RobotScales
    from safedojo_ros.models.pi0_policy import PI0Policy

    policy = PI0Policy.load(source)
    scale, mean = policy.scales.action.scale.clone(), policy.scales.action.mean.clone()
    scale[VERTICAL], mean[VERTICAL] = 1e-4, 0.0
    policy.scales = RobotScales(policy.scales.state, Affine(mean, scale))
    weights = policy.network.state_dict()
    if sign < 0:
        generator = torch.Generator().manual_seed(0)
        for tensor in weights.values():
            if tensor.is_floating_point():
                tensor.mul_(1.0 + 1e-3 * torch.randn(tensor.shape, generator=generator))
    weights["embed_action_time.action_in_proj.weight"][:, VERTICAL] = 0.0
    weights["action_out_proj.weight"][VERTICAL] = 0.0
    weights["action_out_proj.bias"][VERTICAL] = -sign * SIGNATURE / 1e-4
    folder.mkdir()
    policy.save(folder)
    normalisation = policy.scales.to_json()
    return store.publish("policy", folder, spec=policy.spec(), normalisation=normalisation).id


@dataclass
class Heard:
    """What the stack said. actions: (checkpoint, tick in ns) of each first one after another's."""

    signs: dict[str, float]
    chunks: int = 0
    mixed: int = 0
    used: set[str] = field(default_factory=set)
    actions: list[tuple[str, int]] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)

    def listen(self, node: Node) -> None:
        """Subscribe to chunks, targets and announcements."""
        node.create_subscription(ActionChunk, "policy/action_chunk", self.chunk, IN_ORDER)
        node.create_subscription(ArmTarget, "arm/target", self.target, IN_ORDER)
        node.create_subscription(CheckpointInfo, "policy/checkpoint", self.info, LATCHED)

    def chunk(self, message: ActionChunk) -> None:
        """Every step of a chunk must bear the sign of the policy that it names."""
        turns = np.array(message.actions).reshape(-1, 7)[:, VERTICAL]
        expected = self.signs.get(message.checkpoint, float("nan")) * SIGNATURE
        self.chunks += 1
        self.used.add(message.checkpoint)
        self.mixed += not np.all(np.abs(turns - expected) < 0.25 * SIGNATURE)

    def target(self, message: ArmTarget) -> None:
        """A control tick; what comes from a chunk has a sequence."""
        if message.sequence and (not self.actions or self.actions[-1][0] != message.checkpoint):
            self.actions.append((message.checkpoint, to_nanoseconds(message.header.stamp)))

    def info(self, message: CheckpointInfo) -> None:
        """Why something was taken, refused or left."""
        self.reasons.append(f"{message.id}: {message.reason}")


def resident(pid: int) -> float:
    """Resident memory of a process, MB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return float(line.split()[1]) / 1024.0
    raise SystemExit(f"process {pid} has no memory")


def wait_for(condition: Any, seconds: float, what: str, words: list[str]) -> None:
    """Until `condition()`; ends the benchmark with the policy node's own words otherwise."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise SystemExit(
                f"not within {seconds:.0f} s: {what}; the policy node says {words[-3:]}"
            )
        time.sleep(0.002)


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Run the stack through `options.swaps` swaps and return the figures."""
    lease = DomainLease()
    os.environ["ROS_DOMAIN_ID"] = str(lease.number)
    prepare_environment(only_this_machine=True)
    environment = dict(os.environ) | {"OMP_NUM_THREADS": "1"}
    environment.setdefault("MUJOCO_GL", "egl")
    store = CheckpointStore(folder / "store")
    source = find_checkpoint("policy", options.policy)
    names = [publish_signed(store, folder / f"signed{k}", 1.0 - 2.0 * k, source) for k in range(2)]
    store.set_latest("policy", names[0])
    given: dict[str, dict[str, object]] = {
        "sim_node": {"max_steps": 10_000, "level": 0},
        "policy_node": {
            "checkpoint": "latest",
            "store": str(store.root),
            "follow": "latest",
            "cost_margin": 1.0,  # both are equally good: one false alarm must not keep one out
        },
        "safety_node": {"checkpoint": options.safety, "mode": "monitor"},
    }
    stack = StackProcesses(environment, quiet=not options.verbose)
    for entry in DEMO.nodes:
        stack.children.append(
            node_process(entry, [DEMO.parameters_file], given.get(entry.name, {}))
        )
    observer = ObserverThread()
    demo, heard = observer.node, Heard({names[0]: 1.0, names[1]: -1.0})
    heard.listen(demo)
    stack.start()

    def moving() -> bool:
        if demo.faults:
            raise SystemExit(f"the stack does not work: {demo.faults}")
        return demo.arm is not None and demo.arm.state == demo.arm.RUNNING

    process = stack.child("policy_node").process
    assert process is not None
    delays, undisturbed, memory = [], [], []
    try:
        wait_for(moving, START_TIME, "motion", heard.reasons)
        time.sleep(WARM_UP)
        demo.figures = RunFigures()
        memory.append(resident(process.pid))
        for swap in range(1, options.swaps + 1):
            wait_for(moving, SWAP_TIME, "motion", heard.reasons)
            name, episodes, seen = names[swap % 2], len(demo.episodes), len(heard.actions)
            store.set_latest("policy", name)
            published = (store.root / "policy" / "latest").stat().st_mtime_ns

            def acts(name: str = name, seen: int = seen) -> bool:
                return any(action[0] == name for action in heard.actions[seen:])

            wait_for(acts, SWAP_TIME, f"action of {name}", heard.reasons)
            first = next(at for who, at in heard.actions[seen:] if who == name)
            delays.append((first - published) / 1e9)
            if len(demo.episodes) == episodes:
                undisturbed.append(delays[-1])
            memory.append(resident(process.pid))
            time.sleep(options.interval)
        figures, load = replace(demo.figures), os.getloadavg()[0]
    finally:
        observer.close()
        stack.stop()
        lease.release()
    return {
        "swaps": len(delays),
        "control_ticks": figures.ticks,
        "control_rate_hz": figures.as_json()["control_rate_hz"],
        "missed_ticks": figures.missed_ticks,
        "chunks": heard.chunks,
        "mixed_chunks": heard.mixed,
        "policies_heard": len(heard.used),
        "memory_mb": {
            "before the first swap": round(memory[0], 1),
            "after the first swap": round(memory[1], 1),
            "after the last swap": round(memory[-1], 1),
            "most": round(max(memory), 1),
        },
        "publication_to_first_action_ms": percentiles(delays),
        "of_these_without_a_new_episode_ms": percentiles(undisturbed),
        "load_average": round(load, 2),
    }


def main() -> int:
    """Print the figures; 1 when a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--swaps", type=int, default=200)
    parser.add_argument("--interval", type=float, default=0.5, help="seconds between two swaps")
    parser.add_argument("--policy", default=DEFAULT_POLICY, help="what both policies are made from")
    parser.add_argument("--safety", default=SHIPPED)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--verbose", action="store_true", help="show the nodes' own logs")
    options = parser.parse_args()
    if options.swaps < 1:
        parser.error("--swaps must be at least 1")
    with tempfile.TemporaryDirectory(prefix="safedojo_swaps_") as folder:
        figures = measure(options, Path(folder))
    memory = figures["memory_mb"]
    before, after = memory["before the first swap"], memory["after the last swap"]
    missed, mixed = figures["missed_ticks"], figures["mixed_chunks"]
    print(f"{figures['swaps']} swaps, {figures['chunks']} chunks, ", end="")
    print(f"{figures['control_ticks']} control ticks at {figures['control_rate_hz']} Hz")
    print(f"load average {figures['load_average']} (with this benchmark's own nodes), ", end="")
    print(f"{os.cpu_count()} cores, {time.strftime('%Y-%m-%d')}")
    passed = []
    for label, value, bar, good in (
        ("missed control ticks", missed, 0, missed == 0),
        ("chunks mixed from two policies", mixed, 0, mixed == 0),
        ("policies that acted", figures["policies_heard"], 2, figures["policies_heard"] == 2),
        (
            f"memory, {before} to {after} MB",
            f"{after / before - 1.0:+.1%}",
            f"{MEMORY_BAR:.0%}",
            abs(after / before - 1.0) <= MEMORY_BAR,
        ),
    ):
        passed.append(good)
        print(f"{label:46s} {value}   bar {bar}   {'met' if good else 'MISSED'}")
    for label, key in (
        ("publication to first action", "publication_to_first_action_ms"),
        ("the same, no new episode meanwhile", "of_these_without_a_new_episode_ms"),
    ):
        found = figures[key]
        print(f"{label + ', median / p99 ms':46s} {found['median']} / {found['p99']} "
              f"({found['count']})")  # fmt: skip
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main())
