"""The commands of docs/how-to/own-policy.md are what they are said to be."""

import re
import shlex
from dataclasses import fields
from pathlib import Path

import pytest
from policy_server import StandInServer

from safedojo_ros.cli.main import COMMANDS, command_parser, main
from safedojo_ros.models.served.address import ServedAddress, parse_address
from safedojo_ros.models.served.keys import KEYS

PAGE = (Path(__file__).resolve().parents[1] / "docs/how-to/own-policy.md").read_text()
LINES = re.findall(r"^\./dojo (?!lerobot)(.*)", PAGE, re.M)


@pytest.mark.parametrize("line", LINES)
def test_a_command_is_one(line: str) -> None:
    name, *words = shlex.split(line)
    command = next(command for command in COMMANDS if command.name == name)
    options = command_parser(command).parse_args(words)
    named = getattr(options, "checkpoint", "") or getattr(options, "policy", "")
    assert named == "none" or parse_address(named).url == "ws://gpu:8000"


@pytest.mark.parametrize("line", [c for c in LINES if c.startswith("evaluate")])
def test_the_evaluations_run(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    with StandInServer() as server:
        address = server.name.removeprefix("openpi:")
        assert main(shlex.split(line.replace("ws://gpu:8000", address))) == 0
        assert server.questions
    assert ("gate of safety head" in capsys.readouterr().out) == ("--filter gate" in line)


def test_every_part_of_an_address_and_all_keys_are_in_the_tables() -> None:
    listed = set(re.findall(r"^\| `(\w+)` \|", PAGE, re.M))
    parts = {field.name for field in fields(ServedAddress)} - {"url"}
    assert listed == parts | set(KEYS)
    for keys in KEYS.values():
        assert all(f"`{image}`" in PAGE for image in keys.images)
