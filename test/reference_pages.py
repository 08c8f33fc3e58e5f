"""The pages of docs/reference/ that are made from the code: `python test/reference_pages.py`.

Commands and their options, nodes with topics and parameters, messages, presets, file formats,
the functions that examples use.
"""

import argparse
import ast
import dataclasses
import importlib
import inspect
import sys
import textwrap
import typing
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
PAGES = ROOT / "docs" / "reference"
MADE = "<!-- Made by test/reference_pages.py; do not edit. -->"
NODES = ROOT / "safedojo_ros" / "nodes"


def cell(value: object) -> str:
    """`value` for a cell of a table; what is not code must not look like HTML."""
    parts = " ".join(str(value).split()).replace("|", "\\|").split("`")
    return "`".join(p if n % 2 else p.replace("<", "&lt;") for n, p in enumerate(parts))


def table(heads: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """A table in Markdown."""
    heads = list(heads)
    lines = [" | ".join(heads), " | ".join("---" for _ in heads)]
    lines += [" | ".join(map(cell, row)) for row in rows]
    return "\n".join(f"| {line} |" for line in lines) + "\n"


def value_text(value: object) -> str:
    """A default, as code; nothing for what is not set."""
    if value is None or value == "" or value is argparse.SUPPRESS:
        return ""
    if isinstance(value, (list, tuple)):
        value = [item for item in value if item != ""]
        return f"`{', '.join(map(str, value))}`" if value else ""
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def kind_text(kind: Any) -> str:
    """A type as one writes it."""
    return kind.__name__ if isinstance(kind, type) else str(kind).replace("typing.", "")


# ---------------------------------------------------------------- commands


def commands() -> str:
    """Every command with all of its options."""
    from safedojo_ros.cli.commands import COMMANDS, command_parser

    parts = ["# Commands", MADE, "`./dojo COMMAND` or, where the package is installed, `safedojo`."]
    for command in COMMANDS:
        parser = command_parser(command)
        parts.append(f"## {command.name}")
        parts += _options(parser)
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                for name, inner in action.choices.items():
                    parts += [f"### {command.name} {name}", *_options(inner)]
    return "\n\n".join(parts) + "\n"


def _options(parser: argparse.ArgumentParser) -> list[str]:
    about = (parser.description or "").split("\n\n")
    texts = [" ".join(part.split()) for part in about if not part.startswith("  ")]
    texts = [text[0].upper() + text[1:] for text in texts if text]
    if example := getattr(parser, "example", ""):
        texts.insert(1, f"```bash\n./dojo {example}\n```")
    rows = []
    for action in parser._actions:
        if action.dest in ("help", "help_all") or isinstance(action, argparse._SubParsersAction):
            continue
        names = ", ".join(f"`{name}`" for name in action.option_strings) or f"`{action.dest}`"
        default = "needed" if action.required else value_text(action.default)
        if isinstance(action, argparse._StoreTrueAction):
            default = ""
        meaning = [(action.help or "").replace("%%", "%")]
        if action.choices:
            meaning.append(f"one of {', '.join(map(str, action.choices))}")
        rows.append((names, default, "; ".join(filter(None, meaning))))
    return [*texts, table(("Option", "Default", "Meaning"), rows)] if rows else texts


# ---------------------------------------------------------------- nodes


class Port(NamedTuple):
    """Something by which a node speaks or hears; quality: the name of its QoS, "" for a service."""

    direction: str
    name: str
    type: str
    quality: str


def ports(node: str) -> list[Port]:
    """What the module `<node>` and those beside it that it uses publish, hear and answer."""
    found: set[Port] = set()
    waiting, seen = [node], set[str]()
    while waiting:
        module = waiting.pop()
        seen.add(module)
        tree = ast.parse((NODES / f"{module}.py").read_text())
        found |= set(_ports(tree, node.removesuffix("_node")))
        for child in ast.walk(tree):
            if isinstance(child, ast.ImportFrom) and child.module:
                name = child.module.removeprefix("safedojo_ros.nodes.")
                if (NODES / f"{name}.py").is_file() and name not in seen:
                    waiting.append(name)
    return sorted(found)


def _ports(tree: ast.AST, kind: str) -> Iterator[Port]:
    kinds = {
        alias.asname or alias.name: f"{(node.module or '').split('.')[0]}/{alias.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }

    def port(direction: str, parts: list[ast.expr], default: str = "") -> Iterator[Port]:
        named = (_of_contract(part) or part for part in parts)
        texts = [part for part in named if isinstance(part, (ast.Constant, ast.JoinedStr))]
        names = [part.id for part in parts if isinstance(part, ast.Name)]
        types = [kinds.get(n, n) for n in names if n[0].isupper() and not n.isupper()]
        qualities = [n for n in names if n.isupper()]
        if texts and (types or default) and (qualities or direction not in ("gives", "takes")):
            quality = qualities[-1] if qualities else ""
            name = _topic(texts[0], kind)
            yield Port(direction, name, types[0] if types else default, quality)

    for node in ast.walk(tree):
        if isinstance(node, ast.For):
            service = next((c for c in _calls(node) if _ends(c, "create_service")), None)
            if service is not None and isinstance(node.iter, ast.Tuple):
                first = service.args[0]
                fixed = kinds.get(first.id, "") if isinstance(first, ast.Name) else ""
                for row in node.iter.elts:
                    yield from port("answers", list(getattr(row, "elts", [])), fixed)
        elif isinstance(node, ast.Call):
            for ending, direction in DIRECTIONS.items():
                if _ends(node, ending):
                    yield from port(direction, node.args)
        elif isinstance(node, ast.Tuple) and len(node.elts) == 4:
            yield from port("takes", node.elts)


DIRECTIONS = {
    "create_publisher": "gives",
    "create_subscription": "takes",
    "subscribe": "takes",
    "create_service": "answers",
    "ActionServer": "acts",
}


def _calls(node: ast.AST) -> Iterator[ast.Call]:
    return (child for child in ast.walk(node) if isinstance(child, ast.Call))


def _ends(call: ast.Call, name: str) -> bool:
    return name in (getattr(call.func, "attr", ""), getattr(call.func, "id", ""))


def _of_contract(part: ast.expr) -> ast.expr | None:
    """The usual name of a topic that a node takes from its contract: `topics.pose`; or None."""
    from safedojo_ros.core.contract import Topics

    if isinstance(part, ast.BoolOp):
        part = part.values[-1]
    if not isinstance(part, ast.Attribute):
        return None
    owner = getattr(part.value, "attr", getattr(part.value, "id", ""))
    usual = getattr(Topics, part.attr, "") if owner == "topics" else ""
    return ast.Constant(usual) if usual else None


def _topic(text: ast.expr, kind: str) -> str:
    if isinstance(text, ast.Constant):
        return str(text.value)
    assert isinstance(text, ast.JoinedStr)
    parts = []
    for part in text.values:
        if isinstance(part, ast.Constant):
            parts.append(str(part.value))
        else:
            hole = ast.unparse(part).strip("f'{}\"")
            parts.append(kind if hole == "kind" else f"<{hole}>")
    return "".join(parts)


WORDS = {"gives": "publishes", "takes": "hears", "answers": "service", "acts": "action"}


def nodes() -> str:
    """Every node: what it is for, its topics with type and QoS, its parameters."""
    from safedojo_ros.nodes import lifecycle
    from safedojo_ros.nodes.stack.registry import DEMO, TRAIN, VIEW

    parts = ["# Nodes", MADE]
    parts.append(
        "All are lifecycle nodes. Names have no leading `/`, so a namespace moves them. Parameters "
        "are read when a node is configured. Each also has the parameter `autostart` (`true`): "
        f"{lifecycle.AUTOSTART.description}"
    )
    qualities = _constants(NODES / "lifecycle.py")
    parts += ["## QoS", table(("Name", "Meaning"), qualities.items())]
    for entry in (*DEMO.nodes, *TRAIN.nodes, VIEW):
        module = importlib.import_module(entry.module)
        text = " ".join(str(module.__doc__).split("\n\n")[0].split())
        parts += [f"## {entry.name}", text]
        own = [p for p in ports(entry.executable) if p.name != "/diagnostics"]
        if own:
            rows = [(WORDS[p.direction], f"`{p.name}`", p.type, p.quality) for p in own]
            parts.append(table(("", "Name", "Type", "QoS"), rows))
        parts.append(table(("Parameter", "Default", "Range", "Meaning"), _settings(module)))
    return "\n\n".join(parts) + "\n"


def _settings(module: Any) -> Iterator[tuple[str, ...]]:
    for setting in module.SETTINGS:
        ends = [("from", setting.low), ("to", setting.high)]
        span = " ".join(f"{word} {end:g}" for word, end in ends if end is not None)
        span = ", ".join(setting.choices) or span
        yield f"`{setting.name}`", value_text(setting.default), span, setting.description


def _constants(path: Path) -> dict[str, str]:
    """{name: docstring} of the constants that a file documents and that are QoS profiles."""
    body = ast.parse(path.read_text()).body
    found = {}
    for one, other in zip(body, body[1:], strict=False):
        if isinstance(one, ast.Assign) and isinstance(other, ast.Expr):
            made = ast.unparse(one.value)
            if "QoSProfile" in made or "qos_profile" in made:
                text = ast.literal_eval(other.value)
                found[f"`{ast.unparse(one.targets[0])}`"] = " ".join(text.split())
    return found


# ---------------------------------------------------------------- messages


def messages() -> str:
    """Every interface, as it stands in its file."""
    parts = ["# Messages, services, actions", MADE, "Package `safedojo_ros`."]
    for folder in ("msg", "srv", "action"):
        for file in sorted((ROOT / folder).glob(f"*.{folder}")):
            parts += [f"## {file.name}", f"```text\n{file.read_text().rstrip()}\n```"]
    return "\n\n".join(parts) + "\n"


# ---------------------------------------------------------------- presets


def presets() -> str:
    """Every setting of a recipe, with its value in each preset."""
    from safedojo_ros.pipeline.recipe import SECTIONS, Recipe, read_recipe

    names = ("smoke", "tiny", "small", "libero-tiny")
    recipes = {name: read_recipe(name) for name in names}
    parts = ["# Presets", MADE]
    parts.append(
        "`--preset` takes one of these, or a TOML file with the same sections. "
        "`--set SECTION.KEY=VALUE` changes one value."
    )
    texts = _texts(Recipe)
    for section in SECTIONS:
        rows = []
        for key, text in _fields(type(getattr(recipes["tiny"], section))):
            values = [_deep(getattr(recipes[name], section), key) for name in names]
            rows.append((f"`{key}`", *map(value_text, values), text))
        parts += [f"## {section}", texts[section]]
        parts.append(table(("Setting", *names, "Meaning"), rows))
    return "\n\n".join(parts) + "\n"


def _texts(cls: Any) -> dict[str, str]:
    from safedojo_ros.cli.options import field_texts

    return field_texts(cls)


def _fields(cls: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """(dotted key, docstring) of the dataclass and of those inside it."""
    hints, texts = typing.get_type_hints(cls), _texts(cls)
    for field in dataclasses.fields(cls):
        hint = hints[field.name]
        if dataclasses.is_dataclass(hint):
            yield from _fields(hint, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}", texts.get(field.name, "")


def _deep(value: Any, key: str) -> Any:
    for name in key.split("."):
        value = getattr(value, name)
    return value


# ---------------------------------------------------------------- file formats


def formats() -> str:
    """Data sets, checkpoints, zones files and what commands write."""
    from safedojo_ros.checkpoints import manifest
    from safedojo_ros.data.bags import takes
    from safedojo_ros.data.lerobot import layout
    from safedojo_ros.evaluation import protocol
    from safedojo_ros.robot.gate import zones

    head, tree, rest = str(layout.__doc__).split("\n\n", 2)
    parts = ["# File formats", MADE, "## Data set", _line(head)]
    parts += [f"```text\n{tree}\n```", *map(_line, rest.split("\n\n"))]
    steps = layout.STEP_FEATURES | layout.INDEX_FEATURES
    rows = [
        (f"`{name}`", f["dtype"], "×".join(map(str, f["shape"])), ", ".join(f["names"] or ()))
        for name, f in steps.items()
    ]
    rows.append((f"`{layout.CAMERA_PREFIX}<camera>`", "image or video", "S×S×3", "RGB"))
    parts.append("A row for each control step:")
    parts.append(table(("Column", "Type", "Shape", "Names"), rows))
    parts.append("A row for each episode:")
    columns = [(f"`{name}`", kind) for name, kind in layout.EPISODE_COLUMNS.items()]
    parts.append(table(("Column", "Type"), columns))
    parts += ["## Checkpoint", *map(_line, str(manifest.__doc__).split("\n\n"))]
    fields = dataclasses.fields(manifest.Manifest)
    parts.append(
        table(
            ("Key of manifest.json", "Type"), [(f"`{f.name}`", kind_text(f.type)) for f in fields]
        )
    )
    parts.append(_line(str(manifest.Manifest.__doc__).split("\n\n", 1)[1]))
    parts += ["## Evaluation", _line(str(protocol.__doc__).split("\n\n", 1)[1])]
    parts.append("`evaluate --json` writes these keys; `episodes` has a row for each episode:")
    keys = [f"`{key}`" for key in report_keys()]
    parts.append(", ".join(keys) + ".")
    results = [(f"`{f.name}`", kind_text(f.type)) for f in dataclasses.fields(protocol.TrialResult)]
    parts.append(table(("Key of a row", "Type"), results))
    parts += ["## Zones file", "TOML; see [Forbidden zones](../how-to/zones.md)."]
    for title, cls in (
        ("the file", zones.ZonesConfig),
        ("`[[zone]]`", zones.Zone),
        ("`[points]`", zones.PointSource),
        ("`[carried]`", zones.Carried),
    ):
        texts = _texts(cls)
        keys_of = [
            (f"`{f.name}`", value_text(_default(f)), texts.get(f.name, ""))
            for f in dataclasses.fields(cls)
        ]
        parts.append(table((f"Key of {title}", "Default", "Meaning"), keys_of))
    parts += [
        "## Bag",
        "MCAP, one bag for each episode. `./dojo bag-to-dataset` reads these topics:",
    ]
    kinds = takes.KINDS | {takes.TARGET: takes.TARGET_KIND}
    kinds["camera/<name>/image_raw"] = f"{takes.IMAGE_KIND}, {takes.COMPRESSED_KIND}"
    parts.append(table(("Topic", "Type"), [(f"`{name}`", kind) for name, kind in kinds.items()]))
    return "\n\n".join(parts) + "\n"


def report_keys() -> list[str]:
    """The keys that the JSON of an evaluation has."""
    tree = ast.parse((ROOT / "safedojo_ros/evaluation/protocol.py").read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name == "to_json":
            found = next(n for n in ast.walk(node) if isinstance(n, ast.Dict))
            return [ast.literal_eval(key) for key in found.keys if key is not None]
    raise ValueError("an evaluation has no to_json")


def _default(field: Any) -> object:
    if field.default is dataclasses.MISSING or dataclasses.is_dataclass(field.default):
        return ""
    return field.default


# ---------------------------------------------------------------- Python API


def api() -> str:
    """What the examples import: functions with their signatures, requests with their fields."""
    parts = ["# Python API", MADE]
    parts.append(
        "What `examples/` use, and the way in for a program of your own. A stage is a function of "
        "a recipe (a preset) and a request, a frozen dataclass with the fields that the command "
        "has as options; `say` gets each sentence that the command prints."
    )
    for module, names in sorted(example_imports().items()):
        loaded = importlib.import_module(module)
        parts += [f"## {module}", _line(str(loaded.__doc__).split("\n\n")[0])]
        for name in sorted(names, key=lambda n: (inspect.isclass(getattr(loaded, n)), n)):
            if callable(getattr(loaded, name)):  # tables are met in the examples
                parts += _member(name, getattr(loaded, name))
    return "\n\n".join(parts) + "\n"


def example_imports() -> dict[str, set[str]]:
    """{module of the package: names that the examples import from it}."""
    found: dict[str, set[str]] = {}
    for path in sorted((ROOT / "examples").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            module = getattr(node, "module", None) or ""
            if not isinstance(node, ast.ImportFrom) or module == "safedojo_ros.msg":
                continue  # messages have a page of their own
            if module.startswith("safedojo_ros."):
                found.setdefault(module, set()).update(alias.name for alias in node.names)
    return found


def _member(name: str, member: Any) -> Iterator[str]:
    """A function with its signature, a request with its fields, or a class with its methods."""
    yield f"### {name}"
    text = "\n\n".join(map(cell, str(inspect.getdoc(member)).split("\n\n")))
    if dataclasses.is_dataclass(member):
        yield text
        hints, texts = typing.get_type_hints(member), _texts(member)
        yield table(
            ("Field", "Type", "Default", "Meaning"),
            [
                (f"`{f.name}`", f"`{kind_text(hints[f.name]).replace('pathlib.', '')}`",
                 "needed" if _needed(f) else value_text(_default(f)), texts.get(f.name, ""))
                for f in dataclasses.fields(member)
            ],
        )  # fmt: skip
        return
    if not inspect.isclass(member):
        yield f"```python\n{_signature(name, member)}\n```"
    yield text
    methods = vars(member) if inspect.isclass(member) else {}
    for key, method in methods.items():
        method = getattr(method, "__func__", method)
        if inspect.isfunction(method) and not key.startswith("_") and method.__doc__:
            yield f"```python\n{_signature(f'{name}.{key}', method)}\n```"
            yield cell(str(method.__doc__))


def _signature(name: str, function: Any) -> str:
    source = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
    assert isinstance(source, ast.FunctionDef)
    gives = f" -> {ast.unparse(source.returns)}" if source.returns else ""
    return f"{name}({ast.unparse(source.args)}){gives}".replace('"', "").replace("'", "")


def _needed(field: Any) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _line(text: str) -> str:
    return " ".join(text.split())


ALL: dict[str, Callable[[], str]] = {
    "commands.md": commands,
    "nodes.md": nodes,
    "messages.md": messages,
    "presets.md": presets,
    "formats.md": formats,
    "api.md": api,
}


def main() -> int:
    """Write every page."""
    for name, make in ALL.items():
        (PAGES / name).write_text(make())
    return 0


if __name__ == "__main__":
    sys.exit(main())
