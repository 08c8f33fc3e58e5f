"""Whose turn it is in a step of simulated time: arithmetic with an injected clock."""

from safedojo_ros.nodes.stack.turn_order import ORDER, TurnOrder

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
    assert gate == {"node": "safety_node", "stamp": 7, "pose": True, "proposed": 3}
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
