"""A node that this package did not write publishes the chunks: `policy:=none`."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import yaml

pytest.importorskip("rclpy")
pytest.importorskip("safedojo_ros.msg")

from running_stack import ALL_NODES, RunningStack

from safedojo_ros.core.errors import ConfigError
from safedojo_ros.nodes.stack.registry import DEMO, DESCRIPTION, POLICY, ROBOT, TRAIN, Stack

EXAMPLE = Path(__file__).resolve().parents[2] / "examples/policy_node.py"


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[RunningStack]:
    running = RunningStack(
        tmp_path,
        nodes=tuple(name for name in ALL_NODES if name != POLICY.name),
        parameters={"sim_node": {"max_steps": 10_000, "level": 0}},
        safety={"per_speed": 20.0},
    )
    running.listener.rearms = True
    try:
        yield running
    finally:
        assert running.close() == [], "every node ends on SIGINT by itself"


def started() -> "subprocess.Popen[bytes]":
    return subprocess.Popen([sys.executable, str(EXAMPLE)], env=os.environ)


def test_the_example_s_chunks_pass_the_gate_and_its_end_means_hold(stack: RunningStack) -> None:
    heard = stack.listener
    for number in range(2):  # also when it comes back, and counts from 1 again
        node = started()
        try:
            count = len(heard.moves)
            stack.wait_for(lambda c=count: len(heard.moves) > c + 20, "a second of motion")  # type: ignore[misc]
            assert heard.moves[-1].checkpoint == "my policy"
        finally:
            node.send_signal(signal.SIGINT)
            assert node.wait(20.0) == 0
        stack.wait_for(lambda: not heard.running, f"hold after run {number}")


# ---------------------------------------------------------------- how it is started


class Launched(list[Any]):
    """What the launch files would start, with stand-ins for the packages of a ROS installation."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, stack: Stack, **arguments: str) -> None:
        def module(name: str, **content: Any) -> None:
            made = ModuleType(name)
            made.__dict__.update(content)
            monkeypatch.setitem(sys.modules, name, made)

        declared: dict[str, str] = {}

        def declare(name: str, default_value: str, description: str) -> None:
            declared[name] = default_value

        def configuration(name: str) -> Any:
            return SimpleNamespace(perform=lambda _: arguments.get(name, declared[name]))

        self._shutdowns: list[Any] = []

        def node(**how: Any) -> Any:
            return SimpleNamespace(**how)

        def register(handler: Any) -> None:
            self._shutdowns.append(handler.on_shutdown)

        module("launch")
        module(
            "launch.actions",
            DeclareLaunchArgument=declare,
            ExecuteProcess=node,
            OpaqueFunction=lambda function: function(None),
            RegisterEventHandler=register,
        )
        module("launch.event_handlers", OnShutdown=node)
        module("launch.launch_context", LaunchContext=object)
        module("launch.substitutions", LaunchConfiguration=configuration)
        module("launch_ros")
        module("launch_ros.actions", Node=node)
        monkeypatch.delitem(sys.modules, "safedojo_ros.nodes.stack.launch", raising=False)
        from safedojo_ros.nodes.stack.launch import stack_actions

        super().__init__(filter(None, stack_actions(stack)[-1]))
        self.declared = declared
        self.own: dict[str, dict[str, Any]] = {}
        """{node: its parameters on top of the stack's file}, "/**" for all."""
        for file in {file for action in self for file in parameter_files(action)}:
            if file != str(stack.parameters_file):
                for name, section in yaml.safe_load(Path(file).read_text()).items():
                    self.own[name.removeprefix("/**/")] = section["ros__parameters"]

    def end(self) -> None:
        """The launch is shut down."""
        for handler in self._shutdowns:
            handler(None, None)

    def node(self, name: str) -> Any:
        """The action that starts a node."""
        return next(action for action in self if action.name == name)


def parameter_files(action: Any) -> list[str]:
    """What a node, or a process of nodes, reads its parameters from."""
    if hasattr(action, "parameters"):
        return list(action.parameters)
    return [file for option, file in pairwise(action.cmd) if option == "--params-file"]


def test_with_policy_none_everything_but_the_policy_node_is_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    usual = [action.name for action in Launched(monkeypatch, ROBOT)]
    assert usual == [entry.name for entry in (*ROBOT.nodes, DESCRIPTION)]
    found = [action.name for action in Launched(monkeypatch, ROBOT, policy="none")]
    assert found == [name for name in usual if name != "policy_node"]
    process, watchdog, _ = Launched(monkeypatch, DEMO, policy="none", composed="true")
    assert process.cmd[3:7] == [
        "safedojo_ros.nodes.stack.composed", "demo", "--without", "policy_node",
    ]  # fmt: skip
    assert watchdog.name == "watchdog_node"


def test_a_policy_s_name_goes_on_top_of_the_parameters_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = "openpi:ws://gpu:8000?steps=8&image_size=64"
    launched = Launched(monkeypatch, ROBOT, policy=name)
    assert launched.own == {"policy_node": {"checkpoint": name}}
    files = parameter_files(launched.node("policy_node"))
    assert files[0] == str(ROBOT.parameters_file)
    assert len(files) == 2
    composed = Launched(monkeypatch, ROBOT, policy=name, composed="true")
    assert composed.own == launched.own
    assert parameter_files(composed[0])[0] == str(ROBOT.parameters_file)
    assert "policy" not in Launched(monkeypatch, TRAIN).declared


@pytest.mark.parametrize("composed", ["false", "true"])
def test_a_launch_leaves_no_file_behind(composed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    launched = Launched(monkeypatch, DEMO, device="cpu", composed=composed)
    files = {file for action in launched for file in parameter_files(action)}
    assert all(Path(file).is_file() for file in files)
    launched.end()
    assert [file for file in files if Path(file).is_file()] == [str(DEMO.parameters_file)]


def test_the_contract_goes_to_every_node_that_reads_it(monkeypatch: pytest.MonkeyPatch) -> None:
    launched = Launched(monkeypatch, ROBOT, contract="/cell/mine.yaml", policy="safe")
    mine = {"contract": "/cell/mine.yaml"}
    assert launched.own == {
        "camera_node": mine,
        "safety_node": mine,
        "policy_node": {"checkpoint": "safe"} | mine,
    }


def test_a_namespace_goes_to_every_node_with_what_is_outside_of_any(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    launched = Launched(monkeypatch, ROBOT, namespace="cell/left")
    for action in launched:
        assert action.namespace == "/cell/left"
        assert ("/tf", "tf") in action.remappings
    assert Launched(monkeypatch, ROBOT).node("policy_node").remappings == []
    composed, *_, arming = Launched(
        monkeypatch, DEMO, namespace="/left/", composed="true", arm="true"
    )
    for process in (composed, arming):
        assert "__ns:=/left" in process.cmd
        assert "/clock:=clock" in process.cmd
    with pytest.raises(ConfigError, match="namespace is 'cell left', expected words"):
        Launched(monkeypatch, ROBOT, namespace="cell left")


def test_the_device_goes_to_the_nodes_with_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    launched = Launched(monkeypatch, ROBOT, device="cuda:1")
    assert launched.own == {name: {"device": "cuda:1"} for name in ("policy_node", "safety_node")}


def test_rviz_and_rqt_come_when_they_are_asked_for_with_files_that_are_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def windows(launched: Launched) -> dict[str, Any]:
        return {
            action.package: action
            for action in launched
            if getattr(action, "package", "") in ("rviz2", "rqt_gui")
        }

    assert windows(Launched(monkeypatch, ROBOT)) == {}
    launched = Launched(monkeypatch, DEMO, rviz="true", rqt="true")
    assert launched.own["/**"] == {"use_sim_time": True}
    shown = windows(launched)
    assert set(shown) == {"rviz2", "rqt_gui"}
    for action in shown.values():
        assert Path(action.arguments[-1]).is_file()
        assert action.parameters == launched.node("sim_node").parameters[-1:]
    assert windows(Launched(monkeypatch, ROBOT, rviz="true"))["rviz2"].parameters == []


def test_the_demonstration_is_launched_in_its_own_time_or_in_real_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for asked, simulated in (({}, True), ({"use_sim_time": "false"}, False)):
        launched = Launched(monkeypatch, DEMO, policy="none", **asked)
        assert launched.own["/**"] == {"use_sim_time": simulated}
        waits_for = launched.own["sim_node"]["members"]
        assert waits_for == ["watchdog_node", "safety_node", "franka_node"]
    assert "use_sim_time" not in Launched(monkeypatch, ROBOT).declared
