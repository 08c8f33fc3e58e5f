"""Rows of meta/episodes: what each episode is, and in which files its steps lie."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from safedojo_ros.core.contract import Contract, LabelSource
from safedojo_ros.core.errors import DatasetError
from safedojo_ros.data.lerobot import layout
from safedojo_ros.data.lerobot.info import DatasetInfo

COST_SOURCES = ("", *get_args(LabelSource))
LONGEST_EPISODE = 1_000_000
"""Steps; a longer one is a damaged row."""


@dataclass(frozen=True)
class Clip:
    """An episode in a video: its first frame there, and the checksum of it, None: not known."""

    path: Path
    first: int
    checksum: int | None


@dataclass(frozen=True)
class EpisodeRow:
    """What the episode's row in meta/episodes says of it, and where its steps lie.

    cost_source: who says which steps have contact (see `core.contract.LabelSource`); "": nobody.
    """

    number: int
    length: int
    instruction: str
    task: str
    level: int
    seed: int
    source: str
    success: bool
    collided: bool
    contact_steps: int
    data_path: Path
    first_row: int
    clips: dict[str, Clip] = field(default_factory=dict)
    cost_source: str = "physics"

    @property
    def touched(self) -> bool:
        """Whether it has a contact, or moved the obstacle."""
        return self.collided or self.contact_steps > 0


@dataclass
class EpisodeRows:
    """Every row that can be read. damage: a line for each file or row that cannot."""

    rows: list[EpisodeRow] = field(default_factory=list)
    damage: list[str] = field(default_factory=list)
    files: int = 0


def read_episode_rows(
    root: Path, info: DatasetInfo, contract: Contract | None = None
) -> EpisodeRows:
    """The rows of all files in meta/episodes, in order; contract: of a set of another tool."""
    found = EpisodeRows()
    first_of_file: dict[Path, int] = {}
    schema = layout.episodes_schema(info.features)
    number = frame = 0  # of the next row, as long as nothing is damaged
    for path in sorted((root / "meta/episodes").glob("chunk-*/file-*.parquet")):
        if not layout.FILE_NAME.fullmatch(f"{path.parent.name}/{path.name}"):
            continue
        found.files += 1
        try:
            rows = layout.read_rows(layout.contained(root, path), schema, contract is not None)
        except DatasetError as error:
            found.damage.append(f"{error}: its episodes are left out")
            continue
        for values in rows:
            try:
                if contract is not None:
                    values = _completed(values, contract)
                row = _row(root, info, path, values, first_of_file)
                seen = (row.number, values["dataset_from_index"])
                if seen != (number, frame) and not (found.damage and seen >= (number, frame)):
                    raise DatasetError(
                        f"{path}: episode {seen[0]} begins at row {seen[1]}, expected episode "
                        f"{number} from row {frame}; record the dataset again"
                    )
            except DatasetError as error:
                found.damage.append(str(error))
                continue
            found.rows.append(row)
            number, frame = row.number + 1, values["dataset_to_index"]
    if info.episodes > number and not found.damage:
        found.damage.append(
            f"{root / layout.INFO_PATH} counts {info.episodes} episodes, meta/episodes {number}: "
            "the others are lost"
        )
    return found


def _completed(values: dict[str, Any], contract: Contract) -> dict[str, Any]:
    """The row of a set of another tool, with what it does not say.

    Of several sentences for one episode the first counts.
    """
    sentences = [contract.instruction] if contract.instruction else values["tasks"][:1]
    if not sentences or not str(sentences[0] or "").strip():
        raise DatasetError(
            f"episode {values['episode_index']} has no sentence; write one as `instruction` into "
            "the contract"
        )
    known = {
        "task_name": sentences[0],
        "level": 0,
        "seed": values["episode_index"],
        "source": "recorded",
        "success": False,
        "collided": False,
        "contact_steps": 0,
    }
    known |= {name: values[name] for name in known if values[name] is not None}
    return values | known | {"tasks": sentences}


def _row(
    root: Path,
    info: DatasetInfo,
    path: Path,
    values: dict[str, Any],
    first_of_file: dict[Path, int],
) -> EpisodeRow:
    number, length = values["episode_index"], values["length"]
    first, end = values["dataset_from_index"], values["dataset_to_index"]
    if number < 0 or first < 0 or end != first + length or not 0 < length <= LONGEST_EPISODE:
        raise DatasetError(
            f"{path}: episode {number} has rows {first} to {end} and length {length}; "
            "record the dataset again"
        )
    if len(values["tasks"]) != 1 or not isinstance(values["tasks"][0], str):
        raise DatasetError(
            f"{path}: episode {number} has tasks {values['tasks']!r:.60}, expected one"
        )
    name = layout.numbered(values["data/chunk_index"], values["data/file_index"])
    data_path = root / layout.DATA_PATH.format(**name)
    first_of_file.setdefault(data_path, first)
    return EpisodeRow(
        number=number,
        length=length,
        instruction=values["tasks"][0],
        task=values["task_name"],
        level=values["level"],
        seed=values["seed"],
        source=values["source"],
        success=values["success"],
        collided=values["collided"],
        contact_steps=values["contact_steps"],
        cost_source=_cost_source(values["cost_source"]),
        data_path=data_path,
        first_row=first - first_of_file[data_path],
        clips={
            name: _clip(root, info, path, number, name, values)
            for name, feature in info.features.items()
            if feature["dtype"] == "video"
        },
    )


def _cost_source(said: Any) -> str:
    """Of a row without one: the physics of the simulator, which was the only source once."""
    if said is not None and said not in COST_SOURCES:
        raise DatasetError(f"cost_source is {said!r:.40}, expected one of {COST_SOURCES}")
    return "physics" if said is None else str(said)


def _clip(
    root: Path, info: DatasetInfo, path: Path, number: int, name: str, values: dict[str, Any]
) -> Clip:
    prefix = f"videos/{name}/"
    place = layout.numbered(values[prefix + "chunk_index"], values[prefix + "file_index"])
    seconds = values[prefix + "from_timestamp"]
    if not math.isfinite(seconds) or not 0 <= seconds * info.fps < layout.MOST_ROWS:
        raise DatasetError(f"{path}: episode {number} begins at {seconds} s of its video")
    video = root / layout.VIDEO_PATH.format(video_key=name, **place)
    return Clip(video, round(seconds * info.fps), values[prefix + "checksum"])
