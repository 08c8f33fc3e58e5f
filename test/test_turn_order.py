"""Whose turn it is in a step of simulated time: arithmetic with an injected clock."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safedojo_ros.nodes.stack.turn_order import FIELDS, ORDER, TurnOrder, TurnRejected, read

MEMBERS = tuple(name for group in ORDER for name in group)


def present(*members: str) -> TurnOrder:
    """An order in which every member has been heard."""
    order = TurnOrder(members)
    for name in members:
        order.answer({"node": name, "stamp": 0}, 0.0)
    return order


def names(turns: list[dict]) -> list[str]:
    return [turn["node"] for turn in turns]


def test_the_gate_follows_the_policy_and_the_arm_follows_the_gate() -> None:
    order = present(*MEMBERS)
    assert names(order.begin(7, {"pose": True}, 0.0)) == ["watchdog_node", "policy_node"]
    assert order.answer({"node": "policy_node", "stamp": 7, "proposed": 3}, 0.0) == []
    (gate,) = order.answer({"node": "watchdog_node", "stamp": 7}, 0.0)
    assert gate == {
        "node": "safety_node", "stamp": 7, "pose": True, "proposed": 3, "before": {}
    }  # fmt: skip
    (arm,) = order.answer({"node": "safety_node", "stamp": 7, "judged": 3}, 0.0)
    assert (arm["node"], arm["proposed"], arm["judged"]) == ("franka_node", 3, 3)
    assert not order.over
    order.answer({"node": "franka_node", "stamp": 7, "armed": False}, 0.0)
    assert order.over
    order.answer({"node": "franka_node", "stamp": 7, "armed": True}, 0.0)
    assert order.answers["franka_node"]["armed"]


def test_an_answer_to_an_earlier_step_changes_nothing() -> None:
    order = present("policy_node", "safety_node")
    order.begin(1, {}, 0.0)
    order.begin(2, {}, 0.0)
    assert order.answer({"node": "policy_node", "stamp": 1}, 0.0) == []
    assert order.answer({"node": "safety_node", "stamp": 2}, 0.0) == []
    assert order.answers == {}
    assert names(order.answer({"node": "policy_node", "stamp": 2}, 0.0)) == ["safety_node"]


def test_who_was_never_heard_is_asked_but_not_waited_for() -> None:
    order = TurnOrder(("policy_node", "franka_node"))
    assert names(order.begin(1, {}, 0.0)) == ["policy_node", "franka_node"]
    assert order.over
    assert order.missing == {"policy_node", "franka_node"}
    order.answer({"node": "policy_node", "stamp": 1}, 0.0)
    assert order.missing == {"franka_node"}


def test_a_silent_node_is_waited_for_until_patience_ends_and_again_when_it_answers() -> None:
    order = TurnOrder(("policy_node", "safety_node"), patience=5.0)
    for name in ("policy_node", "safety_node"):
        order.answer({"node": name, "stamp": 0}, 0.0)
    order.begin(1, {}, 10.0)
    assert order.give_up(15.0) == ([], [])
    late, turns = order.give_up(15.1)
    assert (late, names(turns)) == (["policy_node"], ["safety_node"])
    order.answer({"node": "safety_node", "stamp": 1}, 15.2)
    assert order.over
    order.answer({"node": "policy_node", "stamp": 1}, 15.3)
    assert names(order.begin(2, {}, 16.0)) == ["policy_node"]


def test_a_node_that_is_no_member_has_no_turn() -> None:
    order = present("safety_node")
    assert names(order.begin(1, {}, 0.0)) == ["safety_node"]
    assert order.answer({"node": "policy_node", "stamp": 1}, 0.0) == []
    assert not order.over


def test_nothing_is_over_before_it_has_begun() -> None:
    assert not TurnOrder(MEMBERS).over


def test_a_turn_says_what_all_have_said_in_the_last_step() -> None:
    order = present(*MEMBERS)
    order.begin(1, {}, 0.0)
    words: dict[str, dict] = {"safety_node": {"forwarded": 4}, "franka_node": {"acted": 1}}
    for name in MEMBERS:
        order.answer({"node": name, "stamp": 1, **words.get(name, {})}, 0.0)
    first, _ = order.begin(2, {}, 1.0)
    assert first["before"] == {"forwarded": 4, "acted": 1}


# ---------------------------------------------------------------- what is read


def test_what_nodes_say_is_read_as_it_was_said() -> None:
    said = {"node": "franka_node", "stamp": 5, "armed": True, "before": {"acted": 4}, "own": [1]}
    assert read(json.dumps(said)) == said


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "not JSON"),
        ("", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "it is list, expected an object"),
        ("null", "it is NoneType"),
        ('{"stamp": 1}', "it has no 'node'"),
        ('{"node": "a"}', "it has no 'stamp'"),
        ('{"node": ["a"], "stamp": 1}', "its 'node' is ['a'], expected str"),
        ('{"node": "a", "stamp": "1"}', "its 'stamp' is '1', expected int"),
        ('{"node": "a", "stamp": true}', "its 'stamp' is True, expected int"),
        ('{"node": "a", "stamp": -1}', "its 'stamp' is -1"),
        ('{"node": "a", "stamp": 1e400}', "its 'stamp' is inf"),
        ('{"node": "a", "stamp": 1, "judged": NaN}', "its 'judged' is nan"),
        ('{"node": "a", "stamp": 1, "before": []}', "its 'before' is [], expected dict"),
        ('{"node": "a", "stamp": 1, "before": {"acted": "x"}}', "its 'acted' is 'x'"),
    ],
)
def test_what_is_malformed_is_one_line_that_says_why(text: str, why: str) -> None:
    with pytest.raises(TurnRejected) as caught:
        read(text)
    assert why in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_a_turn_needs_is_asked_for() -> None:
    with pytest.raises(TurnRejected, match="it has no 'pose'"):
        read('{"node": "a", "stamp": 1}', "pose")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(sorted(FIELDS)) | st.text(max_size=5), inner, max_size=6)
    ),
    max_leaves=12,
)


@given(JSON | st.text(max_size=20).map(lambda text: {"node": text, "stamp": 1, "judged": text}))
def test_whatever_is_read_has_the_types_that_nodes_count_on(value: object) -> None:
    try:
        words = read(json.dumps(value))
    except TurnRejected:
        return
    assert {"node", "stamp"} <= words.keys()
    for name in words.keys() & FIELDS.keys():
        assert type(words[name]) is FIELDS[name]
