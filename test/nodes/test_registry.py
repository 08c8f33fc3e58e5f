"""The registry of nodes says what really exists."""

import argparse
import importlib
import importlib.util
from pathlib import Path

import pytest
import yaml

from safedojo_ros.cli import demo
from safedojo_ros.core.errors import ConfigError
from safedojo_ros.nodes.stack.processes import NodeProcess, StackProcesses
from safedojo_ros.nodes.stack.registry import (
    DEMO,
    DESCRIPTION,
    RECORDER,
    ROBOT,
    TRAIN,
    TRAINER,
    VIEW,
    NodeEntry,
    as_yaml,
    ros_arguments,
)
from safedojo_ros.pipeline.evaluate import Evaluation
from safedojo_ros.pipeline.filters import RunTimeFilter

ALL = (*DEMO.nodes, *ROBOT.nodes, *TRAIN.nodes, VIEW, DESCRIPTION)
ENTRIES = {entry.name: entry for entry in ALL}


@pytest.mark.parametrize("entry", ENTRIES.values(), ids=list(ENTRIES))
def test_an_entry_names_an_existing_module_that_becomes_its_executable(entry: NodeEntry) -> None:
    specification = importlib.util.find_spec(entry.module)
    assert specification is not None
    assert Path(str(specification.origin)).stem == entry.executable


@pytest.mark.parametrize("stack", [DEMO, ROBOT, TRAIN], ids=lambda stack: stack.name)
def test_a_parameters_file_has_only_declared_parameters_of_the_stack_s_nodes(stack) -> None:  # type: ignore[no-untyped-def]
    pytest.importorskip("rclpy")
    sections = yaml.safe_load(stack.parameters_file.read_text())
    assert all(name.startswith("/**/") for name in sections), "in whatever namespace"
    sections = {name.removeprefix("/**/"): section for name, section in sections.items()}
    known = {entry.name: entry for entry in (*stack.nodes, RECORDER, TRAINER, VIEW, DESCRIPTION)}
    assert set(sections) <= set(known)
    for name, section in sections.items():
        declared = {s.name for s in importlib.import_module(known[name].module).SETTINGS}
        assert set(section["ros__parameters"]) <= declared


def test_every_way_to_start_names_the_same_policy_and_head() -> None:
    pytest.importorskip("rclpy")
    parser = argparse.ArgumentParser()
    demo.configure(parser)
    options = parser.parse_args([])
    pairs = {
        (options.policy or demo.DEFAULT_POLICY, options.safety),
        (Evaluation().checkpoint, RunTimeFilter().safety),
    }
    settings = []
    for node in ("policy_node", "safety_node"):
        declared = importlib.import_module(DEMO.node(node).module).SETTINGS
        settings.append(next(s.default for s in declared if s.name == "checkpoint"))
    pairs.add((settings[0], settings[1]))
    for stack in (DEMO, ROBOT):
        sections = yaml.safe_load(stack.parameters_file.read_text())
        policy, head = (sections[f"/**/{node}_node"] for node in ("policy", "safety"))
        pairs.add(tuple(s["ros__parameters"]["checkpoint"] for s in (policy, head)))
    assert pairs == {("safe", "shipped")}


def test_parameters_become_arguments_that_keep_their_type() -> None:
    arguments = ros_arguments(
        DEMO.node("sim_node"), [Path("a.yaml")], {"task": "", "level": 1, "cameras": ["a", "0"]}
    )
    assert arguments == [
        "--ros-args", "--params-file", "a.yaml", "-p", 'task:=""', "-p", "level:=1",
        "-p", 'cameras:=["a", "0"]',
    ]  # fmt: skip


@pytest.mark.parametrize("value", [True, 3, 0.5, "0", 'a "b"', ["x", "y"]])
def test_a_value_survives_the_command_line(value: object) -> None:
    assert yaml.safe_load(as_yaml(value)) == value


def test_an_unknown_node_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="franka_node"):
        DEMO.node("frank_node")


def test_a_child_that_ignores_sigint_is_killed_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("safedojo_ros.nodes.stack.processes.GRACE", 0.3)
    script = (
        "import signal, sys, time; signal.signal(signal.SIGINT, signal.SIG_IGN); "
        "sys.stdout.write('deaf\\n'); sys.stdout.flush(); time.sleep(600)"
    )
    import subprocess
    import sys

    child = NodeProcess("deaf", [sys.executable, "-c", script], [])
    stack = StackProcesses({"PATH": "/usr/bin"}, [child])
    child.process = subprocess.Popen([*child.command], stdout=subprocess.PIPE)
    assert child.process.stdout is not None
    assert child.process.stdout.readline() == b"deaf\n"
    assert stack.stop() == ["deaf"]
    assert not child.alive
    child.process.stdout.close()
