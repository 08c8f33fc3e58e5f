"""Which steps of an episode have contact, written anew into a data set of ours."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from safedojo_ros.core.contract import LabelSource
from safedojo_ros.core.errors import DatasetError
from safedojo_ros.core.files import replacing
from safedojo_ros.data.lerobot import layout
from safedojo_ros.data.lerobot.rows import EpisodeRow


def relabel(root: Path, row: EpisodeRow, contact: np.ndarray, source: LabelSource) -> None:
    """Write `contact` (T,) bool as the episode's cost, and who says so.

    Each file is replaced as a whole, first that of the steps: an interruption leaves the old source
    beside the new labels. Raises `DatasetError` for another length, while another process writes
    the set, or where a file cannot be read.
    """
    if contact.shape != (row.length,):
        raise DatasetError(
            f"labels of episode {row.number} have shape {contact.shape}, expected ({row.length},)"
        )
    with layout.alone(root):
        try:
            _write_steps(row, contact)
            _write_row(root, row.number, int(contact.sum()), source)
        except (OSError, pa.ArrowException) as error:
            raise DatasetError(f"cannot label episode {row.number} of {root}: {error}") from None


def _write_steps(row: EpisodeRow, contact: np.ndarray) -> None:
    """Its column `cost`; the row groups of the file stay as they are."""
    end, place = row.first_row + row.length, 0
    with (
        pq.ParquetFile(row.data_path, page_checksum_verification=True) as file,
        replacing(row.data_path) as partial,
        pq.ParquetWriter(
            partial, file.schema_arrow, compression="snappy", write_page_checksum=True
        ) as copy,
    ):
        column = file.schema_arrow.get_field_index("cost")
        for group in range(file.num_row_groups):
            table = file.read_row_group(group)
            here = np.arange(place, place + len(table))
            inside = (here >= row.first_row) & (here < end)
            if inside.any():
                cost = table["cost"].to_numpy().copy()
                cost[inside] = contact[here[inside] - row.first_row]
                field = file.schema_arrow.field(column)
                table = table.set_column(column, field, pa.array(cost, field.type))
            copy.write_table(table)
            place += len(here)


def _write_row(root: Path, number: int, contact_steps: int, source: str) -> None:
    """The episode's row in meta/episodes."""
    for path in sorted((root / "meta/episodes").glob("chunk-*/file-*.parquet")):
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            table = file.read()
        mine = np.flatnonzero(table["episode_index"].to_numpy() == number)
        if not len(mine):
            continue
        for name, value in (("contact_steps", contact_steps), ("cost_source", source)):
            values = table[name].to_pylist()
            values[int(mine[0])] = value
            field = table.schema.field(name)
            at = table.schema.get_field_index(name)
            table = table.set_column(at, field, pa.array(values, field.type))
        with replacing(path) as partial:
            layout.write_table(partial, table)
        return
    raise DatasetError(f"{root} has no row of episode {number}")
