"""Commands teach: one screen of help, the nearest known word, one line for anything wrong."""

import contextlib
import io
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_commands import NAMES, options, parsers

from safedojo_ros.cli import doctor, train
from safedojo_ros.cli.help import COUNTS, HEIGHT, WIDTH, DojoParser
from safedojo_ros.cli.main import failed, help_text, main
from safedojo_ros.cli.sweep_runs import read_lines, read_values
from safedojo_ros.core.errors import ConfigError

MEASURE = {"demo", "evaluate", "validate", "practice", "sweep", "pipeline", "report",
           "bag-to-dataset", "doctor", "checkpoint", "plan"}  # fmt: skip
"""Commands whose outcome is figures."""


@cache
def leaves(name: str) -> list[DojoParser]:
    """The parsers of a command and its subcommands."""
    return [parser for parser in parsers(name) if isinstance(parser, DojoParser)]


def refused(parser: DojoParser, words: list[str]) -> str:
    """What the parser says of words that are wrong: one line."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said), pytest.raises(SystemExit) as end:
        parser.parse_args(words)
    assert end.value.code == 2
    assert len(said.getvalue().splitlines()) == 1
    return said.getvalue()


def failing(words: list[str]) -> str:
    """What `main` says of words that are wrong; it exits with 2."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        code = main(words)
    assert code == 2, words
    return said.getvalue()


# ---------------------------------------------------------------- help


@pytest.mark.parametrize("name", NAMES)
def test_help_fits_one_screen_and_has_an_example(name: str) -> None:
    for parser in leaves(name):
        lines = parser.format_help().splitlines()
        assert len(lines) <= HEIGHT, parser.prog
        assert not [line for line in lines if len(line) > WIDTH]
        assert parser.example.split()[0] == name, parser.prog
        assert "".join(parser.example.split()) in re.sub(r"[\\\s]", "", parser.format_help())


@pytest.mark.parametrize("name", NAMES)
def test_every_example_is_a_command_that_is_taken(name: str) -> None:
    top = leaves(name)[0]
    for parser in leaves(name):
        top.parse_args(parser.example.split()[1:])


@pytest.mark.parametrize("name", NAMES)
def test_the_short_help_says_where_the_rest_is_and_the_long_one_has_it(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for parser in leaves(name):
        with pytest.raises(SystemExit):
            parser.parse_args(["--help-all"])
        everything = capsys.readouterr().out
        named = [n for action in parser._actions for n in action.option_strings]
        assert all(n in everything for n in named)
        if not all(n in parser.format_help() for n in named if n != "-h"):
            assert "--help-all" in parser.format_help()


@pytest.mark.parametrize("name", NAMES)
def test_a_number_says_its_default(name: str) -> None:
    for parser in leaves(name):
        for action in parser._actions:
            if isinstance(action.default, (int, float)) and action.default is not False:
                text = str(parser._get_formatter()._get_help_string(action))
                assert f"default: {action.default}" in text or "(default" in text, action.dest


def test_the_commands_fit_one_screen() -> None:
    lines = help_text().splitlines()
    assert len(lines) <= HEIGHT
    assert max(map(len, lines)) <= WIDTH


def test_the_version_is_the_package_s(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert re.fullmatch(r"safedojo \d+\.\d+\.\d+\n", capsys.readouterr().out)


def test_messages_name_the_script_that_started_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SAFEDOJO_PROGRAM", "./dojo")
    assert help_text().count("./dojo") >= 2
    for name in NAMES:
        parser = next(iter(parsers(name)))
        assert parser.format_help().startswith(f"usage: ./dojo {name}")
        assert not re.search(r"\bsafedojo [a-z]", parser.format_help())
    assert failing(["evaluate", "--against"]).startswith("./dojo evaluate: ")
    assert failed("train", "do 'safedojo collect'") == 2
    assert capsys.readouterr().err == "./dojo train: do './dojo collect'\n"
    assert "did you mean 'test'" in failing(["tset"])
    script = (Path(__file__).resolve().parents[1] / "dojo").read_text()
    assert "SAFEDOJO_PROGRAM=./dojo exec" in script


# ---------------------------------------------------------------- one spelling


def test_levels_have_one_name_and_one_spelling() -> None:
    for name in NAMES:
        for action in options(name):
            if action.dest.startswith("level"):
                assert action.option_strings == ["--level"], name
                assert re.search(r"\b0, I, II\b|obstacle", str(action.help)), name
                for text in ("0", "I", "II"):
                    assert action.choices is None or text in action.choices, name


def test_whatever_measures_writes_json_into_a_file() -> None:
    found = {n: [a for a in options(n) if "--json" in a.option_strings] for n in NAMES}
    assert {name for name, actions in found.items() if actions} == MEASURE
    for actions in found.values():
        assert all((a.type, a.metavar) == (Path, "FILE") for a in actions)


def test_a_file_that_cannot_be_written_is_refused_before_anything_is_measured(
    tmp_path: Path,
) -> None:
    (tmp_path / "file").touch()
    for option in ("--json", "--film"):
        assert "a folder" in failing(["evaluate", option, str(tmp_path)])
        assert "no folder" in failing(["evaluate", option, str(tmp_path / "file" / "below")])


# ---------------------------------------------------------------- did you mean


@pytest.mark.parametrize("name", NAMES)
def test_an_option_with_a_letter_left_out_names_the_right_one(name: str) -> None:
    for parser in leaves(name):
        for option in parser._option_string_actions:
            if len(option) > 7:
                said = refused(parser, [option[:4] + option[5:], "1"])
                assert f"did you mean '{option}'" in said


@pytest.mark.parametrize("name", NAMES)
def test_a_command_with_a_letter_too_many_names_the_right_one(name: str) -> None:
    assert f"did you mean '{name}'" in failing([name + "s"])


def test_a_choice_and_a_subcommand_name_the_nearest() -> None:
    assert "did you mean 'safe'" in failing(["collect", "--out", "x", "--style", "saef"])
    assert "did you mean 'policy'" in failing(["train", "polcy"])
    assert "did you mean 'rollback'" in failing(["checkpoint", "rolback", "policy"])


def test_a_checkpoint_names_the_nearest() -> None:
    assert "did you mean 'safe'" in failing(["evaluate", "--checkpoint", "saef"])
    assert "did you mean 'shipped'" in failing(
        ["evaluate", "--filter", "gate", "--safety", "shiped"]
    )


# ---------------------------------------------------------------- wrong input


@pytest.mark.parametrize("name", NAMES)
def test_a_number_out_of_range_is_refused_in_one_line(name: str) -> None:
    for parser in leaves(name):
        for action in parser._actions:
            if getattr(action.type, "__name__", "") in ("int", "float") and action.option_strings:
                for text in ("-1", "nan", "x", "9" * 40, *("0" for _ in {action.dest} & {*COUNTS})):
                    said = refused(parser, [f"{action.option_strings[0]}={text}"])
                    assert action.option_strings[0] in said


def test_a_negative_seed_is_refused_before_a_sweep_starts() -> None:
    assert "--seeds is '0,-1'" in failing(["sweep", "--out", "x", "--seeds", "0,-1"])


def test_more_actions_than_a_chunk_has_are_refused() -> None:
    for words in (["evaluate"], ["collect", "--out", "x", "--policy", "safe"]):
        said = failing([*words, "--execute", "9"])
        assert "--execute is 9" in said
        assert "8 actions" in said


def test_an_unknown_checkpoint_is_refused_at_once_and_before_torch(tmp_path: Path) -> None:
    wrong = [
        ["evaluate", "--checkpoint", "nobody"],
        ["evaluate", "--filter", "detour", "--safety", "nobody"],
        ["collect", "--out", "o", "--policy", "nobody"],
        ["practice", "--data", "d", "--out", "o", "--base", "nobody"],
        ["practice", "--data", "d", "--out", "o", "--world-model", "nobody"],
        ["validate", "--data", "d", "--out", "o", "--success", "nobody"],
        ["validate", "--data", "d", "--out", "o", "--policies", "safe", "nobody"],
        ["train", "policy", "--data", "d", "--out", "o", "--start", "nobody"],
        ["train", "world-model", "--data", "d", "--out", "o", "--safety", "nobody"],
        ["train", "success", "--data", "d", "--out", "o", "--world-model", "nobody"],
        ["imagine", "--data", "d", "--out", "o.png", "--checkpoint", "nobody"],
        ["pipeline", "--out", "o", "--base", "nobody"],
        ["sweep", "--out", "o", "--base", "nobody"],
        ["demo", "--policy", "nobody"],
    ]
    program = (
        "import sys, time\n"
        "from safedojo_ros.cli.main import main\n"
        f"for words in {wrong!r}:\n"
        "    began = time.process_time()\n"
        "    code, seconds = main(words), time.process_time() - began\n"
        "    print(code, seconds < 1, 'torch' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.stdout.splitlines() == ["2 True False"] * len(wrong), done.stderr
    assert len(done.stderr.splitlines()) == len(wrong)
    assert all("nobody" in line for line in done.stderr.splitlines())


def test_a_device_that_there_is_not_is_refused_by_name() -> None:
    said = failing(["train", "policy", "--data", "d", "--out", "o", "--device", "gpu"])
    assert "--device is 'gpu', expected auto" in said


def test_an_interrupted_command_says_what_is_kept(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "run", interrupted)
    monkeypatch.setattr(doctor, "run", interrupted)
    assert main(["train", "policy", "--data", "d", "--out", "runs/p"]) == 130
    assert "saved is in runs/p, --resume goes on" in capsys.readouterr().err
    assert main(["doctor"]) == 130
    assert capsys.readouterr().err == "safedojo doctor: interrupted\n"


def test_a_damaged_file_is_refused_in_one_line(tmp_path: Path) -> None:
    damaged = tmp_path / "damaged"
    damaged.write_text("{")
    for read in (read_values, read_lines):
        with pytest.raises(ConfigError, match=r"damaged .*run that job again"):
            read(damaged)


WORDS = st.one_of(
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12),
    st.sampled_from(["--", "-", "--json", "=", "--=", "-1", "nan", "1e999", "--set", "a.b=c"]),
    st.sampled_from(sorted({n for name in NAMES for a in options(name) for n in a.option_strings})),
    st.sampled_from(["policy", "safety", "list", "show", "publish", "all", "I,II", "0.5", "7"]),
)


@settings(max_examples=200, deadline=None)
@given(name=st.sampled_from(NAMES), words=st.lists(WORDS, max_size=6))
def test_no_words_make_a_parser_fail_otherwise_than_in_one_line(
    name: str, words: list[str]
) -> None:
    said, shown = io.StringIO(), io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(shown):
        code: object = 0
        try:
            leaves(name)[0].parse_args(words)
        except ConfigError:
            return
        except SystemExit as end:
            code = end.code
    assert code in (0, 2)
    assert len(said.getvalue().splitlines()) == (1 if code else 0)
