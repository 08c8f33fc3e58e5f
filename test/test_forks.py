"""Nodes forked from a process that has imported for them: started, signalled, ended like others."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from safedojo_ros.nodes.stack.processes import NodeProcess, StackProcesses

PATIENCE = 60.0
LARGE = "from pathlib import Path\nwith Path('imported').open('a') as file:\n    file.write('x')\n"
NODE = """
import os, signal, sys
from pathlib import Path
import large

def main():
    name, code = sys.argv[1:3]
    Path(name).write_text(f"{os.getpid()} {os.getppid()} {os.getpgrp()} {os.nice(0)}")
    if code == "waits":
        signal.signal(signal.SIGINT, lambda *_: sys.exit(4))
        while True:
            Path(name + "_waits").touch()
            signal.pause()
    return int(code)
"""


@pytest.fixture
def stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StackProcesses]:
    (tmp_path / "large.py").write_text(LARGE)
    (tmp_path / "small.py").write_text(NODE)
    monkeypatch.chdir(tmp_path)
    path = f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"
    stack = StackProcesses(dict(os.environ) | {"PYTHONPATH": path})
    yield stack
    stack.stop()


def add(stack: StackProcesses, name: str, code: str, niceness: int = 0) -> NodeProcess:
    """A child that runs `small` in a fork."""
    child = NodeProcess(name, [], [name, code], niceness, module="small", imports=("large",))
    stack.children.append(child)
    return child


def until(condition: Callable[[], object], what: str) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.01)


def ended(child: NodeProcess) -> int | None:
    until(lambda: not child.alive, "the end")
    assert child.process is not None
    return child.process.returncode


def told(name: str) -> list[int]:
    """What a child has said of itself: its id, its parent's, its group's, its niceness."""
    until(lambda: Path(name).exists() and Path(name).read_text(), f"{name} at work")
    return [int(word) for word in Path(name).read_text().split()]


def gone(process: int) -> bool:
    """Whether a process has ended."""
    try:
        return ") Z" in Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return True


def test_all_of_a_stack_import_once_and_each_is_a_process_of_its_own(
    stack: StackProcesses,
) -> None:
    children = [add(stack, "one", "0"), add(stack, "two", "3", niceness=5)]
    stack.start()
    assert [ended(child) for child in children] == [0, 3]
    assert Path("imported").read_text() == "x"
    (one, server, group, nice), (two, other, _, lower) = told("one"), told("two")
    assert one != two
    assert server == other != os.getpid()
    assert group == one, "a signal to the server's group does not reach it"
    assert lower == nice + 5


def test_it_ends_on_sigint_and_is_started_again_without_imports(stack: StackProcesses) -> None:
    child = add(stack, "node", "waits")
    for _ in range(2):
        stack.start()
        until(Path("node_waits").exists, "work")
        stack.end_one(child)
        assert ended(child) == 4
        Path("node_waits").unlink()
    assert Path("imported").read_text() == "x"


def test_a_killed_one_is_known_by_its_signal_and_the_others_go_on(stack: StackProcesses) -> None:
    child, other = add(stack, "node", "waits"), add(stack, "other", "waits")
    stack.start()
    told("node")
    told("other")
    assert child.process is not None
    child.process.kill()
    assert ended(child) == -9
    assert other.alive


def test_forks_end_with_their_server_and_a_new_one_starts_them_again(
    stack: StackProcesses,
) -> None:
    child = add(stack, "node", "waits")
    stack.start()
    process, server, *_ = told("node")
    os.kill(server, 9)
    assert ended(child) == -9
    until(lambda: gone(process), "the fork's end")
    Path("node").unlink()
    stack.start()
    assert told("node")[1] != server


def test_before_it_is_forked_it_can_be_ended_too(stack: StackProcesses, tmp_path: Path) -> None:
    (tmp_path / "large.py").write_text("import time\ntime.sleep(600)\n")
    child = add(stack, "node", "waits")
    stack.start()
    assert child.alive
    assert stack.stop() == []
    assert ended(child) == -9


def test_no_fork_outlives_a_killed_parent(tmp_path: Path, stack: StackProcesses) -> None:
    script = (
        "import os, time\n"
        "from safedojo_ros.nodes.stack.processes import NodeProcess, StackProcesses\n"
        "child = NodeProcess('node', [], ['node', 'waits'], module='small')\n"
        "stack = StackProcesses(dict(os.environ), [child])\n"
        "stack.start()\n"
        "time.sleep(600)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], env=dict(stack.environment))
    try:
        process, server, *_ = told("node")
    finally:
        parent.kill()
        parent.wait()
    until(lambda: gone(process) and gone(server), "the end of both")
