"""Attack records: written, read, and images rebuilt from them."""

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from made_up import made_up

from onepix.files.records import SCHEMA, attacked_images, read_records, write_records


def test_records_survive_the_round_trip_in_the_order_of_images(tmp_path):
    records = made_up()
    write_records(records[:2], tmp_path / "b.parquet")
    write_records(records[2:], tmp_path / "a.parquet")
    assert pq.read_schema(tmp_path / "a.parquet").remove_metadata() == SCHEMA
    found = read_records([tmp_path / "b.parquet", tmp_path / "a.parquet"])
    assert found["image_id"].tolist() == [0, 1, 2, 3, 4]
    assert found["eligible"].tolist() == [True, True, False, True, True]
    assert found["success"].tolist() == [True, False, pd.NA, False, True]
    assert [value[0].tolist() for value in found.loc[found["eligible"], "values"]] == [
        [0, 0, 0],
        [1, 2, 3],
        [9, 9, 9],
        [255, 0, 7],
    ]
    assert found["queries_to_success"].tolist() == [500, pd.NA, pd.NA, pd.NA, 100]


def test_rebuilt_images_have_row_and_column_in_their_places():
    images = np.full((1, 4, 6, 3), 50, np.uint8)
    changed = attacked_images(images, made_up()[:1])
    assert changed[0, 3, 5].tolist() == [255, 0, 7]
    assert (changed != images).any(3).sum() == 1
    assert (images == 50).all()
