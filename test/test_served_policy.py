"""A policy behind openpi's public protocol: its chunks are ours, its faults are one line."""

import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from policy_server import StandInServer, pack, swing, unpack
from websockets.sync.client import connect

from safedojo_ros.cli.main import main
from safedojo_ros.core.bounds import ACTION_BOUND
from safedojo_ros.core.errors import (
    CheckpointError,
    ConfigError,
    ObservationRejected,
    PolicyUnavailable,
)
from safedojo_ros.core.types import Observation, empty_scene
from safedojo_ros.models.served import connection as connections
from safedojo_ros.models.served import wire
from safedojo_ros.models.served.address import parse_address
from safedojo_ros.models.served.policy import ServedPolicy, open_served
from safedojo_ros.models.served.server import policy_server
from safedojo_ros.pipeline.evaluate import Evaluation, evaluate
from safedojo_ros.pipeline.filters import RunTimeFilter

CAMERAS = ("agentview", "wrist")


def scene(seed: int = 0, side: int = 224) -> Observation:
    random = np.random.default_rng(seed)
    images = {name: random.integers(0, 256, (side, side, 3), np.uint8) for name in CAMERAS}
    state = np.array([0.01, -0.05, 0.2, 3.1, 0.1, 0.0, 0.03, 0.03], np.float32)
    return Observation(images, state, "put the red cube on the plate")


def served(server: StandInServer, words: str = "") -> ServedPolicy:
    return open_served(server.name + words)


# ---------------------------------------------------------------- what is asked and answered


def test_an_episode_of_decisions_is_answered_in_metres_and_radians() -> None:
    with StandInServer() as server:
        policy = served(server)
        for seed in range(30):
            observation = scene(seed)
            chunk = policy.act([observation])[0]
            expected = swing({"observation/state": observation.state})["actions"] * ACTION_BOUND
            np.testing.assert_allclose(chunk, expected)
        assert (policy.chunk_length, len(server.questions)) == (10, 30)
        assert policy.connection.connections == 1
        policy.close()


def test_the_question_has_the_keys_and_values_that_libero_policies_are_asked() -> None:
    observation = scene()
    with StandInServer() as server:
        served(server).act([observation])
        asked = server.questions[0]
    assert set(asked) == {
        "observation/image",
        "observation/wrist_image",
        "observation/state",
        "prompt",
    }
    np.testing.assert_array_equal(asked["observation/image"], observation.images["agentview"])
    np.testing.assert_array_equal(asked["observation/wrist_image"], observation.images["wrist"])
    np.testing.assert_allclose(asked["observation/state"][:7], observation.state[:7])
    assert asked["observation/state"][7] == -observation.state[7], "LIBERO's second finger"
    assert asked["prompt"] == observation.instruction


def test_other_cameras_take_the_places_of_the_keys_images() -> None:
    observation = scene()
    images = {"front": observation.images["agentview"], "hand": observation.images["wrist"]}
    with StandInServer() as server:
        policy = served(server, "?cameras=front,hand&keys=tabletop")
        chunk = policy.act([Observation(images, observation.state, "go")])[0]
        asked = server.questions[0]
    np.testing.assert_array_equal(asked["observation/wrist_image"], images["hand"])
    np.testing.assert_allclose(asked["observation/state"], observation.state)
    assert abs(chunk[0, 1]) == ACTION_BOUND[1], "metres, and clipped to the bounds"


def test_actions_beyond_the_bounds_are_clipped() -> None:
    with StandInServer(lambda _: {"actions": np.full((10, 7), 3.0, np.float32)}) as server:
        np.testing.assert_allclose(served(server).act([scene()])[0, 0], ACTION_BOUND)


def test_only_the_leading_steps_are_used() -> None:
    with StandInServer() as server:
        policy = served(server, "?steps=8")
        assert policy.act([scene()]).shape == (1, 8, 7)
        assert (policy.chunk_length, policy.spec()["chunk_length"]) == (8, 8)


def test_each_proposal_is_a_question_and_there_are_no_more_than_the_address_says() -> None:
    answers = iter(np.linspace(0, 1, 9))
    with StandInServer(lambda _: {"actions": np.full((5, 7), next(answers))}) as server:
        policy = served(server, "?proposals=3")
        chunks = policy.propose([scene()], count=4)
        assert chunks.shape == (1, 3, 5, 7)
        assert len(np.unique(chunks[0, :, 0, 0])) == 3
        assert policy.propose([scene()], count=2).shape == (1, 2, 5, 7)
        same = scene()
        policy.propose([same, same])  # as evaluation does with a single one
        assert len(server.questions) == 6


def test_an_observation_without_its_cameras_asks_nothing() -> None:
    with StandInServer() as server:
        with pytest.raises(ObservationRejected, match="camera 'wrist' is missing"):
            served(server).act([empty_scene(("agentview",), 64)])
        assert not server.questions


# ---------------------------------------------------------------- what may go wrong


def answering(actions: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda _: {"actions": actions}


HOLE = np.zeros((10, 7))
HOLE[3, 2] = np.nan


@pytest.mark.parametrize(
    ("actions", "words", "why"),
    [
        (np.zeros((10, 8)), "", "gives actions of 8 numbers, these keys expect 7"),
        (np.zeros(7), "", r"have shape \(7,\), expected two axes"),
        (np.zeros((1, 10, 7)), "", "expected two axes"),
        (np.zeros((0, 7)), "", "chunks of 0 actions, expected 1 to 64"),
        (np.zeros((100, 7)), "", r"chunks of 100 actions, expected 1 to 64; set steps=N"),
        (np.zeros((5, 7)), "?steps=8", "chunks of 5 actions, expected 8 to 64"),
        (HOLE, "", "its action 3 is not finite"),
        (np.full((10, 7), np.inf), "", "its action 0 is not finite"),
        ([[0.0] * 7], "", "its actions are a list, expected numbers"),
        (np.array([["a"] * 7]), "", "its actions are a ndarray, expected numbers"),
    ],
)
def test_a_wrong_chunk_is_one_line(actions: Any, words: str, why: str) -> None:
    with StandInServer(answering(actions)) as server:
        policy = served(server, words)
        with pytest.raises(PolicyUnavailable, match=why) as caught:
            policy.act([scene()])
        assert "\n" not in str(caught.value)
        assert f"ws://127.0.0.1:{server.port}" in str(caught.value)


def test_the_length_of_a_chunk_may_change_with_the_connection_alone() -> None:
    lengths = iter([10, 6, 6, 6])
    with StandInServer(lambda _: {"actions": np.zeros((next(lengths), 7))}) as server:
        policy = served(server)
        policy.act([scene()])
        with pytest.raises(PolicyUnavailable, match="has 6 actions, the one before 10"):
            policy.act([scene()])
        policy.connection.close()
        assert policy.act([scene()]).shape == (1, 6, 7)


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b"", "0 bytes that are not msgpack"),
        (b"\xc1", "1 bytes that are not msgpack"),
        (pack([1, 2]), "sent a list, expected a map"),
        (pack({"action": 1}), "its answer has no 'actions', it has action"),
        (pack({}), "it has nothing"),
        (b"\x81" * 2000 + b"\x01", "not msgpack"),
        ("Traceback ...\nKeyError: 'observation/state'\n", "failed: KeyError: 'observation/state'"),
        ("", "failed: nothing"),
    ],
)
def test_an_answer_that_cannot_be_read_is_one_line(raw: bytes | str, why: str) -> None:
    with StandInServer(raw=raw) as server:
        with pytest.raises(PolicyUnavailable, match=why) as caught:
            served(server).act([scene()])
        assert "\n" not in str(caught.value)


def packed_array(**fields: Any) -> bytes:
    array = {b"__ndarray__": True, b"data": bytes(56), b"dtype": "<f8", b"shape": [1, 7]}
    return pack({"actions": array | {name.encode(): value for name, value in fields.items()}})


@pytest.mark.parametrize(
    "fields",
    [
        {"dtype": "|O"},
        {"dtype": "|V8"},
        {"dtype": "<c8"},
        {"dtype": "nonsense"},
        {"dtype": 3},
        {"shape": [2, 7]},
        {"shape": [-1, 7]},
        {"shape": [2**40, 2**40]},
        {"shape": ["x"]},
        {"shape": None},
        {"data": "text"},
        {"data": None},
    ],
)
def test_an_array_that_is_none_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(PolicyUnavailable, match="not msgpack as openpi's"):
        wire.unpack(packed_array(**fields))
    wire.unpack(packed_array())


def test_the_wire_is_openpi_s() -> None:
    message = {
        "image": np.arange(12, dtype=np.uint8).reshape(2, 2, 3),
        "state": np.linspace(0, 1, 8, dtype=np.float32),
        "scalar": np.float32(0.5),
        "prompt": "déjà vu",
        "nested": [{"a": np.zeros((0, 7))}],
    }
    assert wire.pack(message) == pack(message)
    for there in (unpack(wire.pack(message)), wire.unpack(pack(message))):
        np.testing.assert_array_equal(there["image"], message["image"])
        assert there["image"].dtype == np.uint8
        assert there["nested"][0]["a"].shape == (0, 7)
        assert (there["scalar"], there["prompt"]) == (message["scalar"], message["prompt"])
    with pytest.raises(TypeError, match="a complex128 cannot be sent|a ndarray cannot be sent"):
        wire.pack(np.zeros(3, complex))


def test_a_failing_policy_is_told_in_its_own_words_and_asked_again_afterwards() -> None:
    def moody(question: dict[str, Any]) -> dict[str, Any]:
        if len(server.questions) == 1:
            raise KeyError("observation/state")
        return swing(question)

    with StandInServer(moody) as server:
        policy = served(server)
        with pytest.raises(PolicyUnavailable, match="failed: KeyError: 'observation/state'"):
            policy.act([scene()])
        assert policy.act([scene()]).shape == (1, 10, 7)


def test_a_dead_server_is_one_line_and_is_used_again_when_it_is_back() -> None:
    now = [0.0]
    server = StandInServer()
    policy = served(server)
    policy.connection._clock = lambda: now[0]
    policy.act([scene()])
    server.kill()
    with pytest.raises(PolicyUnavailable, match="closed the connection|cannot be reached"):
        policy.act([scene()])
    with pytest.raises(PolicyUnavailable, match="connection refused; start it, or correct"):
        policy.act([scene()])
    with StandInServer(port=server.port):
        with pytest.raises(PolicyUnavailable, match="connection refused"):
            policy.act([scene()])  # it is not knocked at every twentieth of a second
        now[0] += connections.PAUSE
        assert policy.act([scene()]).shape == (1, 10, 7)
        assert policy.connection.connections == 2


def test_a_slow_answer_is_never_taken_for_the_next_one() -> None:
    values = iter(range(1, 9))

    def slow_at_first(_: dict[str, Any]) -> dict[str, Any]:
        value = next(values)
        time.sleep(2.0 if value == 1 else 0.0)
        return {"actions": np.full((8, 7), value / 10)}

    with StandInServer(slow_at_first) as server:
        policy = served(server, "?timeout=0.2")
        started = time.monotonic()
        with pytest.raises(PolicyUnavailable, match=r"no answer within 0\.2 s"):
            policy.act([scene()])
        assert time.monotonic() - started < 1.8, "it has not waited for the answer"
        assert policy.act([scene()])[0, 0, 6] == pytest.approx(0.2)
        assert policy.act([scene()])[0, 0, 6] == pytest.approx(0.3)


def test_a_server_that_takes_nothing_does_not_hold_the_node_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        policy = open_served(f"openpi:ws://127.0.0.1:{deaf.getsockname()[1]}?timeout=0.2")
        started = time.monotonic()
        with pytest.raises(PolicyUnavailable, match=r"no answer within 0\.2 s"):
            policy.act([scene()])
        assert time.monotonic() - started < 1.0


def test_something_else_that_answers_is_no_policy_server() -> None:
    with (
        StandInServer(greeting=b"\xc1") as server,
        pytest.raises(PolicyUnavailable, match="not msgpack"),
    ):
        served(server).act([scene()])
    with StandInServer() as server:
        policy = open_served(f"{server.name}/healthz")
        with pytest.raises(PolicyUnavailable, match="does not speak openpi's protocol"):
            policy.act([scene()])


# ---------------------------------------------------------------- the address


def test_an_address_says_how_the_server_is_asked() -> None:
    address = parse_address("openpi:wss://gpu.lab:8000/pi?steps=8&timeout=0.5&cameras=a,b")
    assert (address.url, address.steps, address.timeout) == ("wss://gpu.lab:8000/pi", 8, 0.5)
    assert (address.cameras, address.keys, address.proposals) == (("a", "b"), "libero", 1)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("openpi:", "expected openpi:ws://HOST:PORT"),
        ("openpi:gpu:8000", "expected openpi:ws://HOST:PORT"),
        ("openpi:http://gpu:8000", "expected openpi:ws://HOST:PORT"),
        ("openpi:ws://gpu", "expected openpi:ws://HOST:PORT"),
        ("openpi:ws://gpu:port", "expected openpi:ws://HOST:PORT"),
        ("openpi:ws://me:secret@gpu:8000", "expected openpi:ws://HOST:PORT"),
        ("openpi:ws://gpu:8000?step=8", "unknown 'step'; did you mean 'steps'"),
        ("openpi:ws://gpu:8000?steps=many", "steps is 'many', expected a number"),
        ("openpi:ws://gpu:8000?steps=65", r"steps is 65, expected within \[0, 64\]"),
        ("openpi:ws://gpu:8000?timeout=nan", "timeout is nan"),
        ("openpi:ws://gpu:8000?timeout=60", "timeout is 60"),
        ("openpi:ws://gpu:8000?keys=librero", "did you mean 'libero'"),
        ("openpi:ws://gpu:8000?cameras=front", "have images for 2"),
        ("openpi:ws://gpu:8000?cameras=front,", "have images for 2"),
    ],
)
def test_a_wrong_address_is_one_line(name: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        parse_address(name)


# ---------------------------------------------------------------- where it may be used


def test_a_served_policy_is_evaluated_as_the_running_stack_executes_it() -> None:
    with StandInServer() as server:
        asked = Evaluation(
            checkpoint=f"{server.name}?image_size=64", level=(0,), episodes=2, max_steps=24
        )
        report = evaluate(asked)
    assert report.policy == server.name
    assert len(report.results) == 2
    assert len(server.questions) > 4


def test_behind_the_gate_what_the_safety_head_cannot_judge_is_one_line() -> None:
    gate = RunTimeFilter("gate")
    common: dict[str, Any] = {"level": (0,), "episodes": 1, "max_steps": 16, "filter": gate}
    with StandInServer() as server:
        with pytest.raises(CheckpointError, match="judges chunks of 8 steps.*has chunks of 10"):
            evaluate(Evaluation(checkpoint=server.name, **common))
        with pytest.raises(CheckpointError, match=r"of 64 pixels, policy openpi:.* of 224"):
            evaluate(Evaluation(checkpoint=f"{server.name}?steps=8", **common))
        words = "?steps=8&image_size=64&proposals=2"
        report = evaluate(Evaluation(checkpoint=server.name + words, **common))
    assert report.settings["gate"]["proposed"] >= 1


def test_evaluation_without_the_server_is_one_line() -> None:
    with StandInServer() as server:
        pass
    with pytest.raises(PolicyUnavailable, match="start it, or correct the address"):
        evaluate(Evaluation(checkpoint=server.name, episodes=1))


@pytest.mark.parametrize(
    "command",
    [
        "practice --base openpi:ws://gpu:8000 --data some --out {out}",
        "checkpoint show policy openpi:ws://gpu:8000",
        "demo --practice --policy openpi:ws://gpu:8000",
    ],
)
def test_practice_refuses_what_has_no_log_probabilities_in_one_line(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command.format(out=tmp_path / "out").split()) == 2
    said = capsys.readouterr().err.strip()
    assert "gives no log-probabilities" in said
    assert "\n" not in said


# ---------------------------------------------------------------- our own server


def test_our_server_speaks_the_same_protocol() -> None:
    def infer(question: dict[str, Any]) -> dict[str, Any]:
        if question["prompt"] == "fail":
            raise KeyError("no such task")
        return swing(question)

    server = policy_server(infer, "127.0.0.1", 0, {"name": "swing"})
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"127.0.0.1:{server.socket.getsockname()[1]}"
    try:
        policy = open_served(f"openpi:ws://{address}")
        assert policy.act([scene()]).shape == (1, 10, 7)
        assert policy.connection.metadata == {"name": "swing"}
        with pytest.raises(PolicyUnavailable, match="failed: KeyError: 'no such task'"):
            policy.act([Observation(scene().images, scene().state, "fail")])
        policy.close()
        with connect(f"ws://{address}", compression=None) as plain:  # as openpi's client asks
            assert unpack(plain.recv(decode=False)) == {"name": "swing"}
            plain.send(pack(policy.keys.question(scene(), CAMERAS)))
            answer = unpack(plain.recv(decode=False))
            assert answer["actions"].shape == (10, 7)
            assert answer["server_timing"]["infer_ms"] >= 0.0
            plain.send("no map")
            assert "not msgpack" in str(plain.recv())
    finally:
        server.shutdown()
