"""Settings: every section and key is checked, in range, and given once."""

import re
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from safedojo_ros.cli.options import field_texts
from safedojo_ros.core.config import check_ranges, with_overrides
from safedojo_ros.core.errors import ConfigError
from safedojo_ros.fidelity.thresholds import FidelityBars
from safedojo_ros.learning.presets import preset_names, read_preset
from safedojo_ros.pipeline.recipe import Recipe, read_recipe


@pytest.mark.parametrize("name", preset_names())
def test_the_models_of_a_preset_see_images_of_one_size(name: str) -> None:
    settings = read_recipe(name)
    assert settings.safety.size.chunk_length == settings.policy.size.chunk_length
    sides = {
        settings.policy.size.image_size,
        settings.autoencoder.size.image_size,
        settings.success.size.image_size,
        settings.pipeline.image_size,
    }
    assert len(sides) == 1


def repeated(values: dict[str, Any], default: Any, where: str = "") -> list[str]:
    """Keys of a preset that say what the default says."""
    found = []
    for key, value in values.items():
        usual = getattr(default, key)
        if isinstance(value, dict):
            found += repeated(value, usual, f"{where}{key}.")
        elif value == (list(usual) if isinstance(usual, tuple) else usual):
            found.append(f"{where}{key}")
    return found


@pytest.mark.parametrize("name", preset_names())
def test_no_preset_repeats_a_default(name: str) -> None:
    assert repeated(read_preset(name), Recipe()) == []


@pytest.mark.parametrize("name", ["tiny", "small"])
def test_the_measured_recipe_needs_no_setting(name: str) -> None:
    practice = read_recipe(name).practice
    assert practice.blend == 0.5
    assert practice.update.cost_m == 2
    assert practice.multiplier.limit == 0.1


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("policy.stepz=3", "unknown setting 'policy.stepz'; did you mean 'steps'"),
        ("practise.blend=0.5", "no section 'practise'; did you mean 'practice'"),
        ("practice.blnd=0.5", "unknown setting 'practice.blnd'; did you mean 'blend'"),
        ("practice.update.cost=2", "unknown setting 'practice.update.cost'; did you mean 'cost_m'"),
        ("practice.blend=0", r"practice.blend is 0.0, expected within \(0, 1\]"),
        ("practice.blend=nan", "practice.blend is nan"),
        ("practice.multiplier.limit=2", r"practice.multiplier.limit is 2.0, expected within \[0"),
        ("practice.updates=1.5", "'practice.updates' is 1.5, expected int"),
        ("practice.update=3", "'practice.update' is 3, expected a section"),
        ("practice.update.advantage=gae", "expected 'normalised' or 'paper'"),
        ("blend=0.5", "no section 'blend'"),
        ("practice.blend", "has no '='"),
    ],
)
def test_a_setting_that_would_do_nothing_is_refused(setting: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        read_recipe("tiny", [setting])


@pytest.mark.parametrize(
    "setting",
    [
        "practice.world=simulator",
        "practice.update.constrained=false",
        "practice.update.rewarded=false",
        "practice.update.baseline=critic",
        "practice.multiplier.kind=fixed",
        "practice.imagination.max_steps=10",
    ],
)
def test_what_a_method_fixes_is_no_setting(setting: str) -> None:
    with pytest.raises(ConfigError, match="unknown setting 'practice"):
        read_recipe("tiny", [setting])


def test_a_section_that_a_command_does_not_read_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"does not read \[policy\], only \[practice\]"):
        read_recipe("tiny", ["policy.steps=3"], ["practice"])
    assert read_recipe("tiny", ["practice.seed=3"], ["practice"]).practice.seed == 3


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[practise]\nblend = 0.5\n", "unknown setting 'practise'; did you mean 'practice'"),
        ("[success]\nstepz = 5\n", "unknown setting 'success.stepz'"),
        ("practice = 3\n", "'practice' is 3, expected a section"),
        ("[practice\n", "not valid TOML"),
    ],
)
def test_a_preset_of_ones_own_is_checked_everywhere(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "own.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=words):
        read_recipe(str(path), ["policy.steps=3"], ["policy"])


def test_an_unknown_preset_is_named() -> None:
    with pytest.raises(ConfigError, match="choose .*smoke"):
        read_recipe("huge")


def test_an_override_leaves_the_preset_as_it_was() -> None:
    values = {"practice": {"update": {"epochs": 2}}}
    changed = with_overrides(values, ["practice.update.epochs=3", "practice.seed=1"])
    assert changed == {"practice": {"update": {"epochs": 3}, "seed": 1}}
    assert values == {"practice": {"update": {"epochs": 2}}}


@pytest.mark.parametrize(
    ("interval", "inside", "outside"),
    [
        ("(0, 1]", [0.1, 1.0], [0.0, 1.1]),
        ("[0, 1)", [0.0, 0.9], [-0.1, 1.0]),
        ("[1, inf)", [1, 10**9], [0, float("inf"), float("nan")]),
    ],
)
def test_an_interval_is_held_at_both_ends(
    interval: str, inside: list[float], outside: list[float]
) -> None:
    class Config:
        share: float

    for value in inside:
        Config.share = value
        check_ranges(Config(), share=interval)
    for value in outside:
        Config.share = value
        with pytest.raises(ConfigError, match="share is"):
            check_ranges(Config(), share=interval)


def settings_classes(cls: type) -> set[type]:
    """The class and those of its sections."""
    found = {cls}
    for field in fields(cls):
        if isinstance(field.default_factory, type) and is_dataclass(field.default_factory):
            found |= settings_classes(field.default_factory)
    return found


MINE = ("learning", "fidelity", "pipeline", "models")
CLASSES = [
    cls
    for cls in sorted(settings_classes(Recipe) - {FidelityBars}, key=lambda cls: cls.__name__)
    if cls.__module__.removeprefix("safedojo_ros.").startswith(MINE)
]


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_setting_is_documented_under_its_line(cls: type) -> None:
    assert {f.name for f in fields(cls)} == set(field_texts(cls))


def documented_range(text: str) -> str | None:
    """The interval that a setting's text speaks of, as `check_ranges` has it."""
    if found := re.search(r"at least (\d+)", text):
        return f"[{found[1]}, inf)"
    if found := re.search(r"(\d+) or more", text):
        return f"[{found[1]}, inf)"
    if found := re.search(r"above (\d+)", text):
        return f"({found[1]}, inf)"
    found = re.search(r"[\[(]\d+, \d+[\])]", text)
    return found[0] if found else None


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_a_setting_keeps_to_the_range_that_its_text_gives(cls: Any) -> None:
    texts, default = field_texts(cls), cls()
    for name, text in texts.items():
        value = getattr(default, name)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            continue
        interval = documented_range(text)
        assert interval, f"{name} has no range: {text}"
        low, high = (float(end) for end in interval[1:-1].split(","))
        step = 1 if isinstance(value, int) else 1e-3
        outside = [low if interval[0] == "(" else low - step]
        if high < float("inf"):
            outside.append(high if interval[-1] == ")" else high + step)
        for wrong in outside:
            with pytest.raises(ConfigError, match=name):
                replace(default, **{name: type(value)(wrong)})
