"""The attack record: one row per image and target, read and written as Parquet."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from onepix.errors import OnepixError
from onepix.files.atomic import replacing
from onepix.files.manifests import Format, checked_data

RECORDS = Format("attack records", 3)
PIXELS = pa.list_(pa.int32())
COLOURS = pa.list_(pa.list_(pa.uint8()))
PROBABILITIES = pa.list_(pa.float32())
SCHEMA = pa.schema(
    [
        ("image_id", pa.int64()),
        ("label", pa.int32()),  # as the network counts its outputs, of which there are `classes`
        ("classes", pa.int32()),
        ("clean_class", pa.int32()),
        ("clean_confidence", pa.float32()),
        ("eligible", pa.bool_()),
        ("method", pa.string()),
        ("stop", pa.string()),
        ("budget", pa.int64()),  # at most so many candidates
        ("target", pa.int32()),
        ("success", pa.bool_()),
        ("rows", PIXELS),
        ("columns", PIXELS),
        ("values", COLOURS),
        ("adversarial_class", pa.int32()),
        ("true_probability_before", pa.float32()),
        ("true_probability_after", pa.float32()),
        ("target_probability_after", pa.float32()),
        ("adversarial_confidence", pa.float32()),
        ("probability_classes", pa.list_(pa.int32())),
        ("probabilities_before", PROBABILITIES),
        ("probabilities_after", PROBABILITIES),
        ("queries", pa.int64()),
        ("queries_to_success", pa.int64()),
        ("flip_rows", PIXELS),
        ("flip_columns", PIXELS),
        ("flip_values", COLOURS),
        ("queries_to_threshold", pa.int64()),
        ("threshold_rows", PIXELS),
        ("threshold_columns", PIXELS),
        ("threshold_values", COLOURS),
        ("rechecked", pa.int64()),
        ("backward_passes", pa.int32()),  # of the gradient; they are part of `queries`
        ("generations", pa.int32()),
        ("seed", pa.int64()),
    ]
)


def write_records(records: pd.DataFrame, path: Path) -> None:
    """Write attack records as Parquet."""
    # If no image was attacked, pandas would take columns of lists for numbers.
    records = records.astype({field.name: object for field in SCHEMA if pa.types.is_list(field.type)})
    table = pa.Table.from_pandas(records, schema=SCHEMA, preserve_index=False)
    with replacing(path) as temporary:
        pq.write_table(table, temporary)


def read_records(paths: Sequence[Path]) -> pd.DataFrame:
    """Read attack records of several chunks as one table, ordered by image id and target.

    Columns that may be null have pandas' nullable types; `eligible` is bool.
    """
    nullable = {pa.int32(): pd.Int32Dtype(), pa.int64(): pd.Int64Dtype(), pa.bool_(): pd.BooleanDtype()}
    table = pa.concat_tables([pq.read_table(path, schema=SCHEMA) for path in paths])
    records: pd.DataFrame = table.to_pandas(types_mapper=nullable.get).astype({"eligible": bool})
    return records.sort_values(["image_id", "target"], ignore_index=True)


def stored_records(manifests: Iterable[Path]) -> pd.DataFrame:
    """Read the attack records of chunks, given their manifests, as `read_records` does; errors as in `checked_data`."""
    return read_records([checked_data(manifest, RECORDS) for manifest in manifests])


def successes(records: pd.DataFrame) -> pd.DataFrame:
    """Return the records of attacks that reached their goal; for images that were not attacked, success is null."""
    return records[records["success"].fillna(False).astype(bool)]


def one_pixel_successes(records: pd.DataFrame, where: Path, purpose: str) -> pd.DataFrame:
    """Return the records of attacks that reached their goal, all of which changed one pixel.

    Raises
    ------
    OnepixError
        If one of them changed several pixels; the message starts with `where` and ends with `purpose`.
    """
    found = successes(records)
    if (found["rows"].str.len() > 1).any():
        raise OnepixError(f"{where}: several pixels were changed; {purpose} one-pixel attacks")
    return found


def attacked_images(images: npt.NDArray[np.uint8], records: pd.DataFrame) -> npt.NDArray[np.uint8]:
    """Rebuild attacked images.

    Parameters
    ----------
    images : ndarray
        uint8, shape (N, H, W, C): the originals.
    records : DataFrame
        Their N attack records, in the same order.

    Returns
    -------
    ndarray
        uint8, same shape.
    """
    changed = images.copy()
    for image, rows, columns, values in zip(
        changed, records["rows"], records["columns"], records["values"], strict=True
    ):
        for row, column, value in zip(rows, columns, values, strict=True):
            image[row, column] = value
    return changed
