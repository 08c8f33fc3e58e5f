"""`latest` is followed when it moves, once, and never to what has been rejected."""

import threading

import pytest

from safedojo_ros.checkpoints.swap.follow import Follower
from safedojo_ros.core.errors import CheckpointError


class Pointer:
    """A pointer that is moved by hand, and what was asked for and said."""

    def __init__(self, at: str | None = "a", running: str = "a") -> None:
        self.at: str | None | Exception = at
        self.taken: list[str] = []
        self.said: list[str] = []
        self.refused: dict[str, str] = {}
        self.follower = Follower(
            self.read,
            self.taken.append,
            lambda name: self.refused.get(name, ""),
            self.said.append,
            running,
        )

    def read(self) -> str | None:
        if isinstance(self.at, Exception):
            raise self.at
        return self.at

    def move(self, at: str | None | Exception) -> "Pointer":
        self.at = at
        self.follower.look()
        return self


def test_each_move_is_asked_for_once() -> None:
    pointer = Pointer()
    for at in ("a", "b", "b", "c", "b"):
        pointer.move(at)
    assert pointer.taken == ["b", "c", "b"]


def test_a_move_back_to_the_running_one_is_asked_for_too() -> None:
    assert Pointer().move("b").move("a").taken == ["b", "a"], "an open request for b must end"


def test_what_latest_is_at_the_start_is_taken_unless_it_runs() -> None:
    assert Pointer("b", running="a").move("b").taken == ["b"]
    assert Pointer("a", running="a").move("a").taken == []
    assert Pointer(None, running="a").move(None).taken == []


def test_what_was_rejected_is_not_taken_again() -> None:
    pointer = Pointer().move("b")
    pointer.refused["b"] = "too slow"
    pointer.move("a").move("b")
    assert pointer.taken == ["b", "a"]
    assert pointer.said == ["latest is b, which is not taken again: too slow"]


@pytest.mark.parametrize("error", [CheckpointError("no"), OSError("disk gone")])
def test_a_pointer_that_cannot_be_read_is_said_once_and_followed_later(error: Exception) -> None:
    pointer = Pointer().move(error).move(error)
    assert len(pointer.said) == 1
    assert pointer.move("b").taken == ["b"]


def test_the_thread_looks_by_itself_and_ends() -> None:
    taken = threading.Event()
    follower = Follower(lambda: "b", lambda _: taken.set(), lambda _: "", print)
    follower.start(0.001)
    assert taken.wait(10.0)
    follower.close()
    assert "follow" not in {thread.name for thread in threading.enumerate()}
