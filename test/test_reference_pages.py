"""docs/reference/ says what the code says."""

import re
import xml.etree.ElementTree as ElementTree

import pytest
from reference_pages import ALL, PAGES, ROOT, ports

CAMERAS = ("agentview", "wrist")
NEEDS_ROS = {"nodes.md"}
POLICY = ROOT / "config" / "sros2" / "safedojo.policy.xml"
OF_EVERY_NODE = re.compile(
    r"diagnostics|parameter_events|rosout|tf|tf_static|.*/transition_event"
    r"|clock|sim/turn|sim/done"  # of simulated time, which stays on one machine
)
SERVICE_OF_EVERY_NODE = re.compile(
    r".*/(change_state|get_.*|describe_parameters|list_parameters|set_parameters(_atomically)?)"
)


@pytest.mark.parametrize("name", ALL)
def test_a_page_of_the_reference_is_up_to_date(name: str) -> None:
    if name in NEEDS_ROS:
        pytest.importorskip("rclpy")
        pytest.importorskip("safedojo_ros.msg")
    assert (PAGES / name).read_text() == ALL[name](), "run: python test/reference_pages.py"


@pytest.mark.parametrize("node", ["camera_node", "policy_node", "safety_node", "franka_node",
                                  "watchdog_node", "sim_node"])  # fmt: skip
def test_the_reference_lists_what_the_security_policy_allows_a_node(node: str) -> None:
    """The policy is compared with running nodes elsewhere; so this is what nodes really use."""
    listed: dict[tuple[str, str], set[str]] = {}
    words = {
        "gives": ("topic", "publish"),
        "takes": ("topic", "subscribe"),
        "answers": ("service", "reply"),
    }
    for port in ports(node):
        topics = {port.name.replace("<name>", camera).lstrip("/") for camera in CAMERAS}
        listed.setdefault(words[port.direction], set()).update(topics)
    for (kind, how), names in allowed(node).items():
        common = SERVICE_OF_EVERY_NODE if kind == "service" else OF_EVERY_NODE
        of_its_own = {name for name in names if not common.fullmatch(name)}
        of_a_parameter = {
            name for name in of_its_own if name.startswith("sim/") and "image" in name
        }
        found = {name for name in listed.get((kind, how), set()) if not common.fullmatch(name)}
        assert found - of_its_own <= set(), (kind, how)
        assert of_its_own - found <= of_a_parameter, (kind, how)


def allowed(node: str) -> dict[tuple[str, str], set[str]]:
    rights: dict[tuple[str, str], set[str]] = {}
    for profile in ElementTree.parse(POLICY).getroot().iter("profile"):
        if profile.get("node") == node:
            for kind in ("topic", "service"):
                for group in profile.iter(f"{kind}s"):
                    for how in group.attrib:
                        rights[kind, how] = {str(item.text) for item in group}
    return rights
