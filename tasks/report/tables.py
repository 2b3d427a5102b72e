"""The night as files for programs and spreadsheets: scores.parquet and flagged.csv."""

import csv
import io
from datetime import date, datetime
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ganomaly.spreadsheets import spreadsheet_safe
from tasks.report.report import SCORE_SCHEMA, NightReport, flagged_parts
from tasks.report.words import utc

FLAGGED_CSV_COLUMNS = (
    "rank",
    "part",
    "view",
    "key",
    "production_date",
    "captured_at",
    "normalised_score",
    "raw_score",
    "p_value",
    "model_version",
    "calibration_id",
    "heat_map_key",
    "etag",
    "run_id",
)
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


def _csv_cell(value: Any) -> Any:
    """A cell that a spreadsheet shows and does not run; missing values are empty."""
    if isinstance(value, str):
        return spreadsheet_safe(value)
    if pd.isna(value):
        return ""
    if isinstance(value, datetime):
        return utc(value).isoformat()
    return value.isoformat() if isinstance(value, date) else value
