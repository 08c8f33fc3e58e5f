"""Several cells in one ROS domain, each under a namespace of its own."""

import importlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

rclpy = pytest.importorskip("rclpy")
pytest.importorskip("safedojo_ros.msg")

from rcl_interfaces.srv import GetParameters  # noqa: E402
from rclpy.context import Context  # noqa: E402
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor  # noqa: E402
from rclpy.parameter import parameter_value_to_python  # noqa: E402
from running_stack import SCRIPTED, Listener, publish_scripted  # noqa: E402
from scripted_nodes import COMPOSED  # noqa: E402

from safedojo_ros.checkpoints.store.store import CheckpointStore  # noqa: E402
from safedojo_ros.nodes.stack.dds import DomainLease  # noqa: E402
from safedojo_ros.nodes.stack.processes import (  # noqa: E402
    NodeProcess,
    StackProcesses,
    composed_process,
    node_process,
)
from safedojo_ros.nodes.stack.registry import (  # noqa: E402
    DEMO,
    DESCRIPTION,
    RECORDER,
    ROBOT,
    TRAIN,
    TRAINER,
    VIEW,
    WATCHDOG,
    Stack,
    ros_arguments,
)
from safedojo_ros.nodes.stack.ros_environment import prepare_environment  # noqa: E402

ENTRIES = {e.name: e for s in (DEMO, ROBOT, TRAIN) for e in s.nodes} | {
    e.name: e for e in (RECORDER, TRAINER, VIEW, DESCRIPTION)
}


def sections(*files: Path) -> dict[str, dict[str, Any]]:
    """{node: {parameter: value}} of parameters files, the last one on top."""
    found: dict[str, dict[str, Any]] = {}
    for file in files:
        for name, section in yaml.safe_load(file.read_text()).items():
            found.setdefault(name.removeprefix("/**/"), {}).update(section["ros__parameters"])
    return found


@pytest.fixture
def domain() -> Iterator[int]:
    lease = DomainLease()
    before = os.environ.get("ROS_DOMAIN_ID")
    os.environ["ROS_DOMAIN_ID"] = str(lease.number)
    prepare_environment(only_this_machine=True)
    yield lease.number
    os.environ.pop("ROS_DOMAIN_ID")
    if before is not None:
        os.environ["ROS_DOMAIN_ID"] = before
    lease.release()


@pytest.mark.parametrize("stack", [DEMO, ROBOT, TRAIN], ids=lambda stack: stack.name)
def test_a_node_in_a_namespace_has_every_parameter_of_its_file(domain: int, stack: Stack) -> None:
    for name, wanted in sections(stack.parameters_file).items():
        entry, context = ENTRIES[name], Context()
        arguments = ros_arguments(entry, [stack.parameters_file], namespace="/cell/left")
        rclpy.init(args=arguments, context=context, domain_id=domain)
        node = getattr(importlib.import_module(entry.module), entry.factory)(context=context)
        try:
            assert node.get_fully_qualified_name() == f"/cell/left/{name}"
            assert {key: plain(node.setting(key)) for key in wanted} == wanted
        finally:
            node.shut_down()
            node.destroy_node()
            rclpy.try_shutdown(context=context)
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))  # the arm's is real-time


def plain(value: Any) -> Any:
    """A list for what YAML has as one."""
    is_array = isinstance(value, (list, tuple)) or hasattr(value, "typecode")
    return list(value) if is_array else value


class Cell:
    """A demonstration in a namespace, its models scripted, and who listens there.

    seed: of its first scene; store: where the models are.
    """

    def __init__(self, name: str, seed: int, folder: Path, store: Path, context: Context) -> None:
        self.namespace, self.seed = f"/{name}", seed
        own = {
            "/**": {"use_sim_time": True},
            "/**/sim_node": {"seed": seed, "level": 0, "max_steps": 24, "task": "cube_on_plate"},
            "/**/policy_node": {"store": str(store), "checkpoint": "latest", "margin_steps": seed},
            "/**/safety_node": {"store": str(store), "checkpoint": "latest", "memory": 1},
            "/**/franka_node": {"max_lead": 0.01 + seed / 1000},
        }
        path = folder / f"{name}.yaml"
        path.write_text(json.dumps({n: {"ros__parameters": p} for n, p in own.items()}))
        self.files = [DEMO.parameters_file, path]
        together = composed_process(DEMO, self.files, namespace=self.namespace)
        self.children = [
            NodeProcess("composed", [sys.executable, str(SCRIPTED), COMPOSED], together.arguments),
            node_process(WATCHDOG, self.files, namespace=self.namespace),
        ]
        self.listener = Listener(context, name)
        self.listener.rearms = True


@pytest.fixture
def cells(domain: int, tmp_path: Path) -> Iterator[tuple[Cell, Cell]]:
    context = Context()
    rclpy.init(context=context, domain_id=domain)
    store = CheckpointStore(tmp_path / "store")
    for kind in ("policy", "safety"):
        publish_scripted(store, tmp_path / kind, kind)
    made = (
        Cell("left", 1, tmp_path, store.root, context),
        Cell("right", 2, tmp_path, store.root, context),
    )
    processes = StackProcesses(dict(os.environ) | {"OMP_NUM_THREADS": "1", "MUJOCO_GL": "egl"})
    processes.children += [child for cell in made for child in cell.children]
    executor = SingleThreadedExecutor(context=context)
    for cell in made:
        executor.add_node(cell.listener)

    def spin() -> None:
        with suppress(ExternalShutdownException):
            executor.spin()

    thread = threading.Thread(target=spin, daemon=True)
    thread.start()
    processes.start()
    yield made
    executor.shutdown(timeout_sec=2.0)
    thread.join(timeout=3.0)
    for cell in made:
        cell.listener.destroy_node()
    rclpy.try_shutdown(context=context)
    assert processes.stop() == [], "every node ends on SIGINT by itself"


def wait_for(condition: Callable[[], Any], what: str) -> None:
    end = time.monotonic() + 120.0
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.05)


def asked(listener: Listener, node: str, names: list[str]) -> dict[str, Any]:
    """The parameters of a running node of the listener's namespace."""
    client = listener.create_client(GetParameters, f"{node}/get_parameters")
    wait_for(client.service_is_ready, f"{node} of {listener.get_namespace()}")
    future = client.call_async(GetParameters.Request(names=names))
    wait_for(future.done, f"the parameters of {node}")
    values = map(parameter_value_to_python, future.result().values)
    return {name: plain(value) for name, value in zip(names, values, strict=True)}


def test_two_cells_run_side_by_side_each_with_its_own_parameters(
    cells: tuple[Cell, Cell],
) -> None:
    for cell in cells:
        heard = cell.listener
        wait_for(lambda heard=heard: heard.episodes, f"an episode in {cell.namespace}")  # type: ignore[misc]
        assert heard.moves
        of_the_file = sections(*cell.files)
        everywhere = of_the_file.pop("/**")
        for node in DEMO.nodes:
            wanted = of_the_file.get(node.name, {}) | everywhere
            assert asked(heard, node.name, list(wanted)) == wanted
    named = {name.rpartition("/")[0] for cell in cells for name in cell.listener.diagnoses}
    assert named == {"left", "right"}, "diagnostics say of which cell they are"
    seeds = [[episode["seed"] for episode in cell.listener.episodes] for cell in cells]
    assert not set(seeds[0][:1]) & set(seeds[1][:1]), "each hears the episodes of its own world"
