"""`safedojo demo` as a person runs it: outcomes in JSON, nodes started again, no traces left."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rclpy")
pytest.importorskip("safedojo_ros.msg")
pytest.importorskip("torch")

from safedojo_ros.checkpoints.store.store import CheckpointStore
from safedojo_ros.nodes.stack.registry import DEMO, TOPICS
from safedojo_ros.worlds.tabletop.tasks import TASKS


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """{kind: directory} of real models with random weights."""
    from safedojo_ros.models.pi0_policy import tiny_policy
    from safedojo_ros.models.safety_head import tiny_safety

    store = CheckpointStore(tmp_path_factory.mktemp("store"))
    sentences = [task.instruction for task in TASKS.values()]
    found = {}
    for kind, model in (("policy", tiny_policy(0, sentences)), ("safety", tiny_safety(0))):
        folder = tmp_path_factory.mktemp(kind)
        model.save(folder)
        store.publish(kind, folder, spec=model.spec(), normalisation=model.scales.to_json())
        found[kind] = str(store.resolve(kind))
    return found


def start_demo(
    checkpoints: dict[str, str], *options: str, domain: str = ""
) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "safedojo_ros.cli.main", "demo", "--headless", "--monitor"]
    command += ["--policy", checkpoints["policy"], "--safety", checkpoints["safety"], *options]
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    environment["ROS_DOMAIN_ID"] = domain
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def children_of(parent: int) -> dict[str, int]:
    """{command line: process id} of the living children of a process."""
    found = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
            command = (status.parent / "cmdline").read_text().replace("\0", " ")
        except OSError:
            continue
        if int(fields[1]) == parent and fields[0] != "Z":
            found[command] = int(status.parent.name)
    return found


def read_until(process: "subprocess.Popen[str]", text: str) -> None:
    assert process.stdout is not None
    seen = []
    for line in process.stdout:
        seen.append(line)
        if text in line:
            return
    raise AssertionError(f"'{text}' was never printed: {''.join(seen)}")


def alive(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def test_the_demo_survives_a_killed_node_and_writes_every_episode_and_figure(
    checkpoints: dict[str, str], tmp_path: Path
) -> None:
    file = tmp_path / "out.json"
    demo = start_demo(checkpoints, "--episodes", "2", "--json", str(file), "--level", "II")
    read_until(demo, "the arm moves")
    nodes = children_of(demo.pid)
    assert len(nodes) == len(DEMO.nodes)
    (camera,) = [pid for command, pid in nodes.items() if "camera_node" in command]
    os.kill(camera, signal.SIGKILL)
    output, _ = demo.communicate()
    assert demo.returncode == 0, output
    document = json.loads(file.read_text())
    assert [e["number"] for e in document["episodes"]] == [0, 1]
    assert {"success", "contact", "displacement", "steps"} <= set(document["episodes"][0])
    run = document["run"]
    assert {entry.name for entry in DEMO.nodes} <= set(run["nodes"])
    assert {f"/{topic}" for topic in TOPICS} <= set(run["topics"])
    assert run["control_rate_hz"] == pytest.approx(20.0, rel=0.1)
    assert run["policy_compute_ms"]["median"] > 0
    assert run["gate_latency_ms"]["p99"] > 0
    assert run["missed_ticks"] is not None
    assert run["restarts"]["camera_node"] == 1
    assert not [pid for pid in nodes.values() if alive(pid)]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_no_node_outlives_a_demo_that_is_interrupted_or_killed(
    checkpoints: dict[str, str], number: signal.Signals
) -> None:
    demo = start_demo(checkpoints, "--episodes", "9")
    read_until(demo, "starting the nodes")
    end = time.monotonic() + 60
    while len(nodes := children_of(demo.pid)) < len(DEMO.nodes):
        assert time.monotonic() < end
        time.sleep(0.05)
    demo.send_signal(number)
    demo.communicate()
    assert demo.returncode == (130 if number == signal.SIGINT else -signal.SIGKILL)
    end = time.monotonic() + 60
    while left := [pid for pid in nodes.values() if alive(pid)]:
        assert time.monotonic() < end, f"still alive: {left}"
        time.sleep(0.05)


@pytest.mark.fault("arm", "a demonstration in the domain of a robot", "takes another domain")
def test_a_demo_takes_a_domain_of_its_own_whatever_the_user_s_is(
    checkpoints: dict[str, str],
) -> None:
    demo = start_demo(checkpoints, "--episodes", "1", domain="150")
    try:
        assert demo.stdout is not None
        line = next(line for line in demo.stdout if "ROS_DOMAIN_ID=" in line)
        assert 1 <= int(line.partition("ROS_DOMAIN_ID=")[2].partition(";")[0]) <= 100
    finally:
        demo.send_signal(signal.SIGINT)
        demo.communicate()


def test_a_demo_refuses_to_start_beside_an_arm_or_a_switch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import rclpy
    from rclpy.context import Context
    from std_msgs.msg import Bool

    from safedojo_ros.nodes.stack.dds import DomainLease
    from safedojo_ros.nodes.stack.demo_observer import ObserverThread
    from safedojo_ros.nodes.stack.ros_environment import stay_on_this_machine

    lease, other = DomainLease(), Context()
    monkeypatch.setenv("ROS_DOMAIN_ID", str(lease.number))
    stay_on_this_machine()
    rclpy.init(context=other)
    somebody = rclpy.create_node("somebody", context=other)
    observer = ObserverThread()
    try:
        assert observer.node.foreign() == ""
        somebody.create_publisher(Bool, "left/robot/enable", 1)
        end = time.monotonic() + 20.0
        while observer.node.foreign() != "/left/robot/enable":
            assert time.monotonic() < end
            time.sleep(0.05)
    finally:
        observer.close()
        somebody.destroy_node()
        rclpy.try_shutdown(context=other)
        lease.release()


def outcomes(folder: Path, busy: int) -> list[dict[str, Any]]:
    """Of two episodes by what ships, beside so many processes that only compute."""
    file = folder / f"{busy}.json"
    command = [sys.executable, "-m", "safedojo_ros.cli.main", "demo", "--headless", "--no-compare"]
    loop = [sys.executable, "-c", "while True: pass"]
    others = [subprocess.Popen(loop) for _ in range(busy)]
    try:
        done = subprocess.run(
            [*command, "--episodes", "2", "--json", str(file)], capture_output=True, text=True
        )
    finally:
        for other in others:
            other.kill()
            other.wait()
    assert done.returncode == 0, done.stdout + done.stderr
    episodes: list[dict[str, Any]] = json.loads(file.read_text())["episodes"]
    return episodes


def test_the_outcome_does_not_depend_on_what_else_the_machine_computes(tmp_path: Path) -> None:
    alone = outcomes(tmp_path, 0)
    assert len(alone) == 2
    assert outcomes(tmp_path, 2 * len(os.sched_getaffinity(0))) == alone


def test_an_unknown_checkpoint_is_one_line_and_nothing_is_started() -> None:
    command = [sys.executable, "-m", "safedojo_ros.cli.main", "demo", "--policy", "nosuch"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 2
    assert "nosuch" in result.stderr
    assert len(result.stderr.splitlines()) == 1
