"""Options of a command, made from the request dataclass of its stage.

A field is an option with the same name, type and default; the docstring under it is the help. Its
metadata may have "option", another name; "choices"; "parse", a function from text; "metavar"; and
"checkpoint", the kind of checkpoint that it names. A field that is itself such a dataclass adds its
own fields.
"""

import argparse
import ast
import dataclasses
import inspect
import json
import os
import textwrap
import types
import typing
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from safedojo_ros.checkpoints.manifest import read_manifest
from safedojo_ros.checkpoints.names import find_checkpoint, is_served
from safedojo_ros.core.errors import ConfigError
from safedojo_ros.core.files import write_whole
from safedojo_ros.pipeline.request import DEVICE_OPTION

if TYPE_CHECKING:
    from safedojo_ros.pipeline.recipe import Recipe

T = TypeVar("T")


def add_options(parser: argparse.ArgumentParser, cls: type[Any]) -> None:
    """An option for each field of the dataclass `cls`."""
    hints, texts = typing.get_type_hints(cls), field_texts(typing.cast("Any", cls))
    for field in dataclasses.fields(cls):
        hint = hints[field.name]
        if dataclasses.is_dataclass(hint):
            add_options(parser, typing.cast("type[Any]", hint))
            continue
        required = field.default is dataclasses.MISSING
        how: dict[str, Any] = {"help": texts[field.name].replace("%", "%%")}
        how |= {"required": True} if required else {"default": field.default}
        if "checkpoint" in field.metadata:
            named = parser.get_default("checkpoints") or {}
            parser.set_defaults(checkpoints=named | {field.name: field.metadata["checkpoint"]})
        if typing.get_origin(hint) in (typing.Union, types.UnionType):
            hint = next(a for a in typing.get_args(hint) if a is not type(None))
        if "parse" in field.metadata:
            how["type"] = field.metadata["parse"]
        elif hint is bool:
            how = {"help": how["help"], "action": "store_true"}
        elif typing.get_origin(hint) is typing.Literal or "choices" in field.metadata:
            how["choices"] = field.metadata.get("choices") or typing.get_args(hint)
        elif typing.get_origin(hint) is tuple:
            how |= {"nargs": "+", "type": typing.get_args(hint)[0]}
        else:
            how["type"] = hint
        if "metavar" in field.metadata:
            how["metavar"] = field.metadata["metavar"]
        name = field.metadata.get("option", field.name)
        parser.add_argument(f"--{name.replace('_', '-')}", dest=field.name, **how)


def add_device(add: Callable[..., Any]) -> None:
    """--device, of every command that computes with torch and has no such field in its request.

    add: the `add_argument` of its parser.
    """
    add(
        "--device",
        default="auto",
        help="auto (a GPU where there is one; default), cpu, cuda or cuda:N",
        type=DEVICE_OPTION["parse"],
        metavar="DEVICE",
    )


def add_json(add: Callable[..., Any]) -> None:
    """--json, of every command that measures and has no such field in its request.

    add: the `add_argument` of its parser.
    """
    add("--json", type=Path, metavar="FILE", help="write the figures there, too")


def write_json(path: Path | None, figures: Any) -> None:
    """Write what `--json` asks for; figures: plain values, or the file that has them."""
    if path is not None:
        if isinstance(figures, Path):
            figures = json.loads(figures.read_bytes())
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(figures, indent=1) + "\n")


def from_options(cls: type[T], args: argparse.Namespace) -> T:
    """The dataclass `cls`, filled from the options that `add_options` declared."""
    values: dict[str, Any] = {}
    for name, hint in typing.get_type_hints(cls).items():
        if dataclasses.is_dataclass(hint):
            values[name] = from_options(typing.cast("type[Any]", hint), args)
        else:
            value = getattr(args, name)
            values[name] = tuple(value) if isinstance(value, list) else value
    return cls(**values)


def check_checkpoints(args: argparse.Namespace) -> None:
    """Find every checkpoint that `args` name, before anything heavy is loaded.

    Raises `CheckpointError`, and `ConfigError` for more actions than the policy's chunk has.
    """
    execute, store = getattr(args, "execute", None), getattr(args, "store", None)
    for name, kind in getattr(args, "checkpoints", {}).items():
        given = getattr(args, name)
        for text in [given] if isinstance(given, str) else given or ():
            if not text or is_served(text):
                continue
            spec = read_manifest(find_checkpoint(kind, text, store)).spec
            most = spec.get("chunk_length")
            if kind == "policy" and execute and most and execute > most:
                raise ConfigError(
                    f"--execute is {execute}, a chunk of policy '{text}' has {most} actions"
                )


def check_files(args: argparse.Namespace) -> None:
    """Raise `ConfigError` for a file that `args` name and that cannot be written, before anything
    is measured for it."""
    for name in ("json", "film"):
        path = getattr(args, name, None)
        if path is None:
            continue
        if path.is_dir():
            raise ConfigError(f"--{name} is '{path}', a folder; expected the name of a file")
        home = next(folder for folder in path.absolute().parents if folder.exists())
        if not (home.is_dir() and os.access(home, os.W_OK)):
            raise ConfigError(f"--{name} is '{path}', but {home} is no folder that can be written")


@cache
def field_texts(cls: type[Any]) -> dict[str, str]:
    """{field: its docstring in the source of the dataclass `cls` or of its bases}."""
    texts: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if not dataclasses.is_dataclass(base):
            continue
        definition = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]
        for field, below in pairwise(typing.cast("ast.ClassDef", definition).body):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(below, ast.Expr)
                and isinstance(below.value, ast.Constant)
            ):
                texts[field.target.id] = " ".join(str(below.value.value).split())
    return texts


def add_recipe_options(parser: argparse.ArgumentParser, threads: bool = True) -> None:
    """--preset and --set; and --threads, unless other processes compute."""
    parser.add_argument(
        "--preset",
        default="tiny",
        help="smoke, tiny, small, libero-tiny or a TOML file (default: tiny)",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="change one value of the preset, such as practice.multiplier.limit=0.1; "
        "safedojo_ros/pipeline/recipe.py documents them all",
    )
    if threads:
        parser.add_argument("--threads", type=int, default=0, help="torch threads; 0: torch's own")


def recipe_of(args: argparse.Namespace, *sections: str) -> "Recipe":
    """The recipe of --preset and --set; also applies --threads.

    sections: those that the command reads (none: all). Raises `ConfigError` where --set names
    another one.
    """
    from safedojo_ros.models.threads import use_processor
    from safedojo_ros.pipeline.recipe import SECTIONS, read_recipe

    use_processor(getattr(args, "threads", 0))
    return read_recipe(args.preset, args.set, sections or SECTIONS)
