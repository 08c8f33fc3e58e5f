"""What pip, colcon and ROS read of this package says one and the same thing."""

import ast
import os
import re
import subprocess
import sys
import tomllib
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from safedojo_ros.cli import doctor
from safedojo_ros.cli.main import COMMANDS, main
from safedojo_ros.core.errors import ConfigError
from safedojo_ros.nodes.stack import registry as table
from safedojo_ros.nodes.stack.ros_environment import RECEIVE_BUFFER

ROOT = Path(__file__).resolve().parents[1]
PACKAGE_XML = ElementTree.parse(ROOT / "package.xml").getroot()
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
INTERFACES = sorted(
    [*ROOT.glob("msg/*.msg"), *ROOT.glob("srv/*.srv"), *ROOT.glob("action/*.action")]
)
NODES = sorted((ROOT / "safedojo_ros/nodes").glob("*_node.py"))
FIELD = re.compile(r"^[\w/]+(\[\d*\])? +\w+\s*(#|$)")
UNIT = re.compile(r"\b(m|rad|s)\b|probability|0 to 1|-1 open")


def test_package_xml_names_the_package_a_license_and_a_reachable_maintainer() -> None:
    assert PACKAGE_XML.get("format") == "3"
    assert PACKAGE_XML.findtext("name") == "safedojo_ros"
    assert PACKAGE_XML.findtext("license") == "Apache-2.0" == PYPROJECT["project"]["license"]
    assert PACKAGE_XML.findtext("export/build_type") == "ament_cmake"
    assert PACKAGE_XML.findtext("member_of_group") == "rosidl_interface_packages"
    maintainer = PACKAGE_XML.find("maintainer")
    assert maintainer is not None
    assert re.fullmatch(r"[^@\s]+@[^@\s]+\.\w+", maintainer.get("email", ""))
    assert "Apache License" in (ROOT / "LICENSE").read_text()


def test_package_xml_is_valid_for_the_tools_that_read_it() -> None:
    package = pytest.importorskip("catkin_pkg.package")
    warnings: list[str] = []
    package.parse_package(str(ROOT / "package.xml"), warnings=warnings)
    assert not warnings


def test_every_place_states_the_same_version() -> None:
    assert PACKAGE_XML.findtext("version") == PYPROJECT["project"]["version"]


@pytest.mark.parametrize("file", INTERFACES, ids=lambda file: file.name)
def test_every_field_is_explained_and_every_quantity_states_its_unit(file: Path) -> None:
    fields = [line for line in file.read_text().splitlines() if FIELD.match(line)]
    assert fields
    for line in fields:
        _, mark, comment = line.partition("#")
        assert mark, f"{file.name}: '{line}' has no comment"
        is_quantity = line.startswith("float")
        assert not is_quantity or UNIT.search(comment), f"{file.name}: '{line}' states no unit"


@pytest.mark.parametrize("file", INTERFACES, ids=lambda file: file.name)
def test_a_header_states_its_frame(file: Path) -> None:
    headers = [line for line in file.read_text().splitlines() if "std_msgs/Header" in line]
    assert all("frame_id" in line for line in headers)


@pytest.mark.parametrize("file", NODES, ids=lambda file: file.stem)
def test_a_node_file_has_the_main_that_its_executable_calls(file: Path) -> None:
    tree = ast.parse(file.read_text())
    names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    imported = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    names |= {alias.asname or alias.name for node in imported for alias in node.names}
    assert "main" in names


def test_every_node_of_the_table_has_an_executable() -> None:
    entries = [entry for entry in vars(table).values() if isinstance(entry, table.NodeEntry)]
    assert entries
    for entry in entries:
        assert entry.executable in {file.stem for file in NODES}
        assert entry.module == f"safedojo_ros.nodes.{entry.executable}"


def test_package_xml_depends_on_every_message_package_that_a_node_imports() -> None:
    declared = {e.text for e in PACKAGE_XML if e.tag in ("depend", "exec_depend")}
    wheels = " ".join(PYPROJECT["project"]["optional-dependencies"]["ros"]).replace("-", "_")
    for file in (ROOT / "safedojo_ros/nodes").glob("*.py"):
        for name in re.findall(r"^from (\w+_msgs|std_srvs)\.", file.read_text(), re.MULTILINE):
            assert name in declared, f"{file.name} imports {name}: add it to package.xml"
            known = f"ros_{name}==" in wheels or name == "lifecycle_msgs"
            assert known, f"{file.name} imports {name}: add it to the extra 'ros'"


def test_the_doctor_wants_the_versions_that_the_package_declares() -> None:
    extras = PYPROJECT["project"]["optional-dependencies"]
    listed = [*PYPROJECT["project"]["dependencies"], *extras["franka"]]
    declared = {requirement.split(";")[0] for requirement in listed}  # without its platform
    for library in doctor.LIBRARIES:
        if library.mend:  # installed by the start script, without its requirements
            pinned = f"{library.distribution}{library.versions}"
            assert pinned in (ROOT / "dojo").read_text()
        else:
            assert f"{library.distribution}{library.versions}" in declared


def test_the_start_script_is_executable_and_valid_shell() -> None:
    for script in (ROOT / "dojo", ROOT / ".ci/run"):
        assert os.access(script, os.X_OK)
        subprocess.run(["bash", "-n", str(script)], check=True)


@pytest.mark.parametrize("name", ["udp", "local"])
def test_a_profile_without_shared_memory_has_udp_alone_and_buffers_for_images(name: str) -> None:
    text = (ROOT / f"config/fastdds_{name}.xml").read_text()
    assert re.findall(r"<type>(\w+)</type>", text) == ["UDPv4"]
    assert "<useBuiltinTransports>false</useBuiltinTransports>" in text
    assert f"<receiveBufferSize>{RECEIVE_BUFFER}</receiveBufferSize>" in text
    assert ("<address>127.0.0.1</address>" in text) == (name == "local")


def test_the_fast_dds_profile_holds_a_picture_and_spares_small_containers() -> None:
    text = (ROOT / "config/fastdds.xml").read_text()
    size = re.search(r"<segment_size>(\d+)</segment_size>", text)
    assert size is not None
    assert 2 * 640 * 480 * 3 < int(size.group(1)) <= 4 * 2**20


def test_a_terminal_that_knows_ascii_alone_ends_no_command() -> None:
    script = (
        "import sys; from safedojo_ros.cli import doctor, main; "
        "doctor.run = lambda _: print('62 % (55–69) … π') or 0; sys.exit(main.main(['doctor']))"
    )
    variables = dict(os.environ) | {"PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, env=variables, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "62 % (55?69) ? ?\n"), done.stderr


def opened_as_the_locale_says(source: str) -> list[int]:
    """Lines of `source` that read or write text without saying its encoding."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call) or any(k.arg == "encoding" for k in node.keywords):
            continue
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        owner = getattr(getattr(node.func, "value", None), "id", "")
        mode = node.args[0 if isinstance(node.func, ast.Attribute) else 1 :][:1]
        binary = any(isinstance(m, ast.Constant) and "b" in str(m.value) for m in mode)
        if name in ("read_text", "write_text") or (
            name == "open" and owner not in ("os", "av", "Image") and not binary
        ):
            found.append(node.lineno)
    return found


def test_no_file_is_read_or_written_in_the_encoding_of_the_locale() -> None:
    assert opened_as_the_locale_says("open(p); p.open('a'); open(p, 'rb'); os.open(p, 0)") == [1, 1]
    files = [*(ROOT / "safedojo_ros").rglob("*.py"), ROOT / "setup.py", ROOT / "build_backend.py"]
    found = {
        str(f.relative_to(ROOT)): opened_as_the_locale_says(f.read_text("utf-8")) for f in files
    }
    assert not {name: lines for name, lines in found.items() if lines}


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown and summary in shown for name, summary, *_ in COMMANDS)


def test_a_known_fault_is_one_line_on_stderr_and_exit_code_2(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> int:
        raise ConfigError("level 'IV' is unknown;\nexpected 0, I or II")

    monkeypatch.setattr(doctor, "run", fail)
    assert main(["doctor"]) == 2
    assert capsys.readouterr().err == (
        "safedojo doctor: level 'IV' is unknown; expected 0, I or II\n"
    )
