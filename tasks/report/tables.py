"""The night as files for programs and spreadsheets: scores.parquet, flagged.csv and regions.csv."""

import csv
import io
from datetime import date, datetime
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ganomaly.spreadsheets import spreadsheet_safe
from tasks.report.report import REGION_COLUMNS, SCORE_SCHEMA, NightReport, flagged_parts
from tasks.report.words import utc

FLAGGED_CSV_COLUMNS = (
    *("rank", "part", "view", "key", "production_date", "captured_at", "normalised_score", "raw_score", "p_value"),
    *("sure", "model_version", "calibration_id", "heat_map_key", "etag", "run_id"),
)
REGION_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("key", "part", "view")),
        ("production_date", pa.date32()),
        *((name, pa.int64()) for name in ("region", "x_px", "y_px", "width_px", "height_px")),
        *((name, pa.float64()) for name in ("centre_x_px", "centre_y_px")),
        ("area_px2", pa.int64()),
        *((name, pa.float64()) for name in ("extent_px", "heat")),
        ("counts", pa.bool_()),
        *((name, pa.float64()) for name in ("width_mm", "height_mm", "extent_mm", "area_mm2")),
    ]
)
PX_COLUMNS = {
    **{name: f"{name}_px" for name in ("x", "y", "width", "height", "centre_x", "centre_y")},
    "area_px": "area_px2",
}
ROW_GROUP = 20_000  # rows of the parquet file that are in memory at once


def scores_parquet(report: NightReport) -> bytes:
    """The scores as a parquet file with the columns and types of `SCORE_SCHEMA`, also on an empty night."""
    buffer = io.BytesIO()
    with pq.ParquetWriter(buffer, SCORE_SCHEMA) as writer:
        for start in range(0, max(1, len(report.scores)), ROW_GROUP):
            writer.write_table(_as_arrow(report.scores.iloc[start : start + ROW_GROUP]))
    return buffer.getvalue()


def _as_arrow(scores: pd.DataFrame) -> pa.Table:
    columns = [pa.array(scores[field.name].tolist(), field.type, from_pandas=True) for field in SCORE_SCHEMA]
    return pa.Table.from_arrays(columns, schema=SCORE_SCHEMA)


def flagged_csv(report: NightReport) -> str:
    """Every flagged image, parts worst first, a part's images together (RFC 4180, with a header).

    Text that a spreadsheet would take for a formula gets a leading apostrophe; numbers are written in full precision.
    """
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(FLAGGED_CSV_COLUMNS)
    for part in flagged_parts(report):
        for image in part.images:
            cells = (getattr(image, column) for column in FLAGGED_CSV_COLUMNS[1:])
            writer.writerow([part.rank, *map(_csv_cell, cells)])
    return text.getvalue()


def regions_csv(report: NightReport) -> str:
    """Every region of every flagged image: where it lies and how large it is, in pixels and, where known, in mm.

    Whether it counts is what the line's rules say (`RegionRules`).
    """
    table, text = _regions(report), io.StringIO()
    writer = csv.writer(text)
    writer.writerow(table.columns)
    writer.writerows([_csv_cell(cell) for cell in row] for row in table.itertuples(index=False))
    return text.getvalue()


def regions_parquet(report: NightReport) -> bytes:
    """The same as a parquet file with the columns and types of `REGION_SCHEMA`, also on an empty night."""
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pandas(_regions(report), REGION_SCHEMA, preserve_index=False), buffer)
    return buffer.getvalue()


def _regions(report: NightReport) -> pd.DataFrame:
    scale = float("nan") if report.line.images.mm_per_px is None else report.line.images.mm_per_px
    table = report.regions[list(REGION_COLUMNS)].rename(columns={"place": "region", **PX_COLUMNS})
    mm = {f"{name}_mm": table[f"{name}_px"].astype("float64") * scale for name in ("width", "height", "extent")}
    return table.assign(**mm, area_mm2=table["area_px2"].astype("float64") * scale**2)


def _csv_cell(value: Any) -> Any:
    """A cell that a spreadsheet shows and does not run; missing values are empty."""
    if isinstance(value, bool | np.bool_):
        return str(value).lower()
    if isinstance(value, str):
        return spreadsheet_safe(value)
    if pd.isna(value):
        return ""
    if isinstance(value, datetime):
        return utc(value).isoformat()
    return value.isoformat() if isinstance(value, date) else value
