"""A model is exchanged between two chunks or not at all, and a failed request changes nothing."""

import json
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from checkpoint_directories import NORMALISATION, SPEC, write_source

from safedojo_ros.checkpoints.manifest import Manifest
from safedojo_ros.checkpoints.store.store import CheckpointStore
from safedojo_ros.checkpoints.swap.hot_swap import HotSwap, fits_robot
from safedojo_ros.core.errors import CheckpointError

WAIT = 20.0
Model = dict[str, float]


def load(directory: Path) -> Model:
    return json.loads((directory / "config.json").read_text())


class Shelf:
    """A store into which values are published, and a hot swap that reads them."""

    def __init__(self, root: Path) -> None:
        self.root, self.count = root, 0
        self.now = 1_800_000_000.0
        self.store = CheckpointStore(root / "store", self._clock)

    def _clock(self) -> float:
        self.now += 1.0
        return self.now

    def publish(self, value: float, spec: dict | None = None, **more: object) -> str:
        self.count += 1
        source = write_source(self.root / f"source{self.count}", value)
        details = {"spec": spec or SPEC, "normalisation": NORMALISATION} | more
        return self.store.publish("policy", source, **details).id  # type: ignore[arg-type]

    def swap(
        self,
        load: Callable[[Path], Model] = load,
        canary: Callable[[Model], None] | None = None,
        compatible: Callable[[Manifest], None] | None = None,
    ) -> HotSwap[Model]:
        clock = iter(range(0, 10**12, 10**9)).__next__
        find = partial(self.store.resolve, "policy")
        return HotSwap(load, find, canary, compatible, clock)


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path)


def finished(swap: HotSwap[Model]) -> HotSwap[Model]:
    assert swap.wait(WAIT), "the request did not end"
    return swap


def test_a_new_checkpoint_waits_for_the_chunk_boundary(shelf: Shelf) -> None:
    old = shelf.publish(1.0)
    swap = shelf.swap()
    assert swap.start_with("latest") == {"value": 1.0}
    new = shelf.publish(2.0)
    assert swap.request().accepted
    finished(swap)
    assert swap.status == "ready"
    assert swap.current is not None
    assert swap.current.id == old, "nothing changes before the owner takes it"
    assert swap.take_ready() == {"value": 2.0}
    assert swap.take_ready() is None
    assert (swap.current.id, swap.status) == (new, "active")
    assert swap.previous is not None
    assert swap.previous.id == old
    assert swap.current.seconds == 1.0


def test_taking_never_waits_for_a_load(shelf: Shelf) -> None:
    shelf.publish(1.0)
    gate, entered = threading.Event(), threading.Event()

    def slow(directory: Path) -> Model:
        if swap.current is not None:
            entered.set()
            assert gate.wait(WAIT)
        return load(directory)

    swap = shelf.swap(slow)
    swap.start_with("latest")
    shelf.publish(2.0)
    swap.request()
    assert entered.wait(WAIT)
    assert swap.take_ready() is None
    assert swap.status == "loading"
    gate.set()
    finished(swap)
    assert swap.take_ready() == {"value": 2.0}


def test_the_newest_request_wins(shelf: Shelf) -> None:
    names = [shelf.publish(float(k)) for k in range(5)]
    gate, entered, loads = threading.Event(), threading.Event(), []

    def slow(directory: Path) -> Model:
        loads.append(directory.name)
        if directory.name == names[1]:
            entered.set()
            assert gate.wait(WAIT)
        return load(directory)

    swap = shelf.swap(slow)
    swap.start_with(names[0])
    swap.request(names[1])
    assert entered.wait(WAIT)
    swap.request(names[2])
    assert f"instead of '{names[2]}'" in swap.request(names[3]).reason
    gate.set()
    finished(swap)
    assert swap.take_ready() == {"value": 3.0}
    assert loads == [names[0], names[1], names[3]]


def no_canary(_: Model) -> None:
    raise CheckpointError("the canary's chunk is not finite")


def raising(error: BaseException) -> Callable[[object], Model]:
    def fail(_: object) -> Model:
        raise error

    return fail


FAULTS: dict[str, tuple[Callable[[Shelf], object], dict, str]] = {
    "flipped bit": (
        lambda s: (s.store.resolve("policy") / "config.json").write_text('{"value": 3.0}'),
        {},
        "was altered",
    ),
    "file missing": (
        lambda s: (s.store.resolve("policy") / "config.json").unlink(),
        {},
        "config.json is missing",
    ),
    "does not load": (lambda s: None, {"load": raising(KeyError("layer"))}, "KeyError: 'layer'"),
    "no memory": (lambda s: None, {"load": raising(MemoryError())}, "MemoryError"),
    "canary": (lambda s: None, {"canary": no_canary}, "not finite"),
    "action size": (
        lambda s: s.publish(2.0, {**SPEC, "action_size": 8}),
        {},
        "action_size 8, this robot needs 7",
    ),
    "no spec": (lambda s: s.publish(2.0, {"period": 0.05}), {}, "state_size None"),
    "camera": (
        lambda s: s.publish(2.0, {**SPEC, "cameras": ["side"]}),
        {},
        "needs cameras ['side'], this robot has",
    ),
    "period": (lambda s: s.publish(2.0, {**SPEC, "period": 0.1}), {}, "every 0.1 s"),
    "no normalisation": (
        lambda s: s.publish(2.0, normalisation={}),
        {},
        "no normalisation of 'state'",
    ),
    "other normalisation": (
        lambda s: s.publish(2.0, normalisation=NORMALISATION | {"action": {"mean": [0.0] * 6}}),
        {},
        "'action.mean' is not 7 finite numbers",
    ),
    "normalisation text": (
        lambda s: s.publish(2.0, normalisation=NORMALISATION | {"state": {"mean": ["a"] * 8}}),
        {},
        "'state.mean' is not 8 finite numbers",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_failed_request_changes_nothing_and_says_why(shelf: Shelf, fault: str) -> None:
    harm, parts, words = FAULTS[fault]
    first = shelf.publish(1.0)
    swap = shelf.swap(compatible=fits_robot(["agentview", "wrist"]))
    model = swap.start_with(first)
    shelf.publish(2.0)
    harm(shelf)
    for name, part in parts.items():
        setattr(swap, f"_{name}", part)
    assert swap.request("latest").accepted
    finished(swap)
    assert swap.status == "failed"
    assert words in swap.reason
    assert swap.take_ready() is None
    assert swap.current is not None
    assert swap.current.model is model
    assert swap.previous is None


def test_after_a_failure_the_next_request_is_served(shelf: Shelf) -> None:
    first, second = shelf.publish(1.0), shelf.publish(2.0)
    swap = shelf.swap()
    swap.start_with(first)
    swap.request("no-such-id")
    finished(swap)
    assert swap.status == "failed"
    assert "no policy checkpoint 'no-such-id'" in swap.reason
    swap.request(second)
    assert finished(swap).take_ready() == {"value": 2.0}


def test_a_failure_does_not_take_away_what_was_ready_before(shelf: Shelf) -> None:
    first, second = shelf.publish(1.0), shelf.publish(2.0)
    swap = shelf.swap()
    swap.start_with(first)
    swap.request(second)
    finished(swap)
    swap.request("no-such-id")
    finished(swap)
    assert swap.take_ready() == {"value": 2.0}
    assert swap.status == "failed", "the newest request's end stays visible"


def test_the_first_model_must_load(shelf: Shelf) -> None:
    with pytest.raises(CheckpointError, match="no latest checkpoint"):
        shelf.swap().start_with("latest")
    shelf.publish(1.0)
    with pytest.raises(CheckpointError, match="not finite"):
        shelf.swap(canary=no_canary).start_with("latest")


def test_rollback_returns_the_very_model_that_ran_before(shelf: Shelf) -> None:
    first, second = shelf.publish(1.0), shelf.publish(2.0)
    swap = shelf.swap()
    model = swap.start_with(first)
    with pytest.raises(CheckpointError, match="no previous"):
        swap.rollback()
    swap.request(second)
    finished(swap).take_ready()
    assert swap.rollback() is model
    assert swap.current is not None
    assert swap.current.id == first
    assert swap.reason == f"rolled back from {second} to {first}"
    with pytest.raises(CheckpointError, match="no previous"):
        swap.rollback()


def test_rollback_drops_a_request_that_is_still_loading(shelf: Shelf) -> None:
    names = [shelf.publish(float(k)) for k in range(3)]
    gate, entered = threading.Event(), threading.Event()

    def slow(directory: Path) -> Model:
        if directory.name == names[2]:
            entered.set()
            assert gate.wait(WAIT)
        return load(directory)

    swap = shelf.swap(slow)
    swap.start_with(names[0])
    swap.request(names[1])
    finished(swap).take_ready()
    swap.request(names[2])
    assert entered.wait(WAIT)
    assert swap.rollback() == {"value": 0.0}
    gate.set()
    finished(swap)
    assert swap.take_ready() is None
    assert swap.status == "active"
    assert "rolled back" in swap.reason


def test_rollback_drops_a_model_that_was_ready_but_not_taken(shelf: Shelf) -> None:
    names = [shelf.publish(float(k)) for k in range(3)]
    swap = shelf.swap()
    swap.start_with(names[0])
    swap.request(names[1])
    finished(swap).take_ready()
    swap.request(names[2])
    finished(swap)
    assert swap.rollback() == {"value": 0.0}
    assert swap.take_ready() is None


def test_nothing_is_taken_after_closing(shelf: Shelf) -> None:
    shelf.publish(1.0)
    swap = shelf.swap()
    swap.start_with("latest")
    swap.request("latest")
    swap.close()
    finished(swap)
    assert swap.take_ready() is None
    assert not swap.request("latest").accepted


def test_the_canary_sees_the_new_model_before_anybody_else(shelf: Shelf) -> None:
    shelf.publish(1.0)
    tried: list[Model] = []
    swap = shelf.swap(canary=tried.append)
    swap.start_with("latest")
    shelf.publish(2.0)
    swap.request("latest")
    finished(swap)
    assert tried == [{"value": 1.0}, {"value": 2.0}]


def test_another_torch_is_a_warning_and_not_a_failure(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    packages = "safedojo_ros.checkpoints.provenance.current_packages"
    monkeypatch.setattr(packages, lambda: {"torch": "1.0.0"})
    shelf.publish(1.0)
    monkeypatch.setattr(packages, lambda: {"torch": "2.13.0"})
    swap = shelf.swap()
    swap.start_with("latest")
    assert swap.current is not None
    assert len(swap.current.warnings) == 1
    assert "torch 1.0.0" in swap.current.warnings[0]


def test_two_hundred_swaps_between_two_checkpoints_each_give_the_asked_one(shelf: Shelf) -> None:
    names = [shelf.publish(1.0), shelf.publish(2.0)]
    swap = shelf.swap()
    swap.start_with(names[0])
    for k in range(1, 201):
        swap.request(names[k % 2])
        assert finished(swap).take_ready() == {"value": 1.0 + k % 2}
        assert swap.previous is not None
        assert swap.previous.id == names[(k - 1) % 2]
    assert threading.active_count() < 20


def test_a_model_that_must_wait_is_taken_as_soon_as_it_may(shelf: Shelf) -> None:
    first = shelf.publish(1.0)
    pair = shelf.publish(2.0, requires={"safety": "head2"})
    announced = ["head1"]

    def waits(manifest: Manifest) -> str:
        needed = manifest.requires.get("safety", announced[0])
        return "" if needed == announced[0] else f"it needs {needed}, {announced[0]} judges"

    swap = shelf.swap()
    swap._waits = waits
    swap.start_with(first)
    swap.request(pair)
    finished(swap)
    assert swap.take_ready() is None
    assert (swap.status, swap.reason) == ("waiting", f"{pair} waits: it needs head2, head1 judges")
    assert swap.candidate is not None
    assert swap.candidate.id == pair
    assert swap.current is not None
    assert swap.current.id == first
    announced[0] = "head2"
    assert swap.take_ready() == {"value": 2.0}
    assert (swap.status, swap.candidate) == ("active", None)


def test_a_rejected_model_is_left_and_remembered(shelf: Shelf) -> None:
    first, second = shelf.publish(1.0), shelf.publish(2.0)
    swap = shelf.swap()
    swap.start_with(first)
    with pytest.raises(CheckpointError, match="no previous"):
        swap.reject("too slow")
    assert swap.refused == {}
    swap.request(second)
    finished(swap).take_ready()
    assert swap.reject("too slow") == {"value": 1.0}
    assert swap.reason == f"rolled back from {second} to {first}: too slow"
    assert swap.refused == {second: "too slow"}
    swap.request(second)
    assert finished(swap).take_ready() == {"value": 2.0}, "a person may insist"


def test_the_way_back_leads_past_a_model_that_has_not_proven_itself(shelf: Shelf) -> None:
    names = [shelf.publish(float(k)) for k in range(3)]
    swap = shelf.swap()
    swap.start_with(names[0])
    swap.request(names[1])
    finished(swap).take_ready()
    swap.request(names[2])
    assert finished(swap).take_ready(proven=False) == {"value": 2.0}
    assert swap.rollback() == {"value": 0.0}


def test_asking_for_the_running_one_ends_an_open_request(shelf: Shelf) -> None:
    first, second = shelf.publish(1.0), shelf.publish(2.0)
    swap = shelf.swap()
    swap.start_with(first)
    swap.request(second)
    finished(swap)
    assert "active already" in swap.request(first).reason
    assert swap.take_ready() is None
    assert swap.current is not None
    assert swap.current.id == first
