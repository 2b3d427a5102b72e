"""The night's report: its numbers, its order, and that nothing from a key can do anything in it."""

import csv
import io
import re
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from ganomaly.scoring.calibration import Calibration
from tasks.lines.line import LineConfig
from tasks.night.accounting import RunCounts
from tasks.report import tables
from tasks.report.markdown import night_markdown
from tasks.report.page import report_html, score_histogram
from tasks.report.report import REGION_COLUMNS, SCORE_SCHEMA, NightReport, Picture, flagged_parts
from tasks.report.tables import (
    FLAGGED_CSV_COLUMNS,
    REGION_SCHEMA,
    flagged_csv,
    regions_csv,
    regions_parquet,
    scores_parquet,
)
from tasks.report.words import headline
from tasks.store.rows import ScoringRun

HOSTILE = "<script>alert(1)</script>\"'&.png"
DAY = date(2025, 11, 14)
# verdict and raw score of each (part, view); the limit is 10
NIGHT = {
    ("a", "left"): ("ok", 4.0),
    ("a", "right"): ("flagged", 11.0),
    ("b", "left"): ("flagged", 30.0),
    ("c", "left"): ("flagged", 12.0),
    ("c", "right"): ("flagged", 20.0),
    ("d", "left"): ("ok", 5.0),
    ("e", "left"): ("unusable", np.nan),
}
LINE = LineConfig.model_validate({"name": "solar", "description": "Cells", "timezone": "Europe/Berlin"})
RUN = ScoringRun(
    id="run-1",
    line="solar",
    window_start=DAY,
    window_end=DAY,
    model_name="ganomaly-solar",
    model_version=3,
    calibration_id="cal-1",
    snapshot_id="snap-1",
    code_version="0.1.0",
    flow_run_id="",
    state="completed",
    message="",
    started_at=datetime(2025, 11, 15, 2, 0, tzinfo=UTC),
    finished_at=None,
    listed=0,
    scored=0,
    already_scored=0,
    unusable=0,
    failed=0,
    flagged=0,
    report_key=None,
)
CALIBRATION = Calibration.fit([*np.linspace(1, 10, 82), 11, 12, 13], 0.05)  # the limit is 10


def line(**changes: Any) -> LineConfig:
    """The line with other settings, which nothing checks."""
    return LINE.model_copy(update=changes)


def score_row(part: str, view: str, verdict: str, raw: float, **changes: Any) -> dict[str, Any]:
    """One row of the score table."""
    return {
        "key": f"images/line/2025-11-14/{part}/{view}.png",
        "etag": f"etag-{part}-{view}",
        "part": part,
        "view": view,
        "production_date": DAY,
        "captured_at": pd.Timestamp("2025-11-14T08:00:00.123456", tz="UTC"),
        "raw_score": raw,
        "normalised_score": raw / (raw + 10),
        "p_value": 0.01 if verdict == "flagged" else 0.4 if verdict == "ok" else np.nan,
        "verdict": verdict,
        "sure": raw >= 20,
        "reason": "too_small: 8 px" if verdict == "unusable" else None,
        "heat_map_key": "overlays/x.jpg" if verdict == "flagged" else None,
        "model_version": 3,
        "calibration_id": "cal-1",
        "run_id": "run-1",
    } | changes


def night_rows() -> list[dict[str, Any]]:
    """The rows of `NIGHT`."""
    return [score_row(part, view, verdict, raw) for (part, view), (verdict, raw) in NIGHT.items()]


def make_report(
    rows: list[dict[str, Any]], failures: list[tuple[str, str, str]] | None = None, **changes: Any
) -> NightReport:
    """A report on these rows with counts that add up; any field can be changed."""
    scores = pd.DataFrame(rows, columns=SCORE_SCHEMA.names)
    failed = pd.DataFrame(failures or [], columns=["key", "reason", "detail"])
    unusable = int((scores["verdict"] == "unusable").sum())
    settings: dict[str, Any] = {
        "line": LINE,
        "run": RUN,
        "finished_at": datetime(2025, 11, 15, 2, 5, tzinfo=UTC),
        "calibration": CALIBRATION,
        "recipe_summary": "grey, 64 x 64 px",
        "counts": RunCounts(
            listed=len(scores) + len(failed), scored=len(scores) - unusable, unusable=unusable, failed=len(failed)
        ),
        "scores": scores,
        "failures": failed,
        "pictures": {},
    }
    return NightReport(**settings | changes)


def with_pictures(report_rows: list[dict[str, Any]]) -> dict[str, Picture]:
    """A picture for each flagged row."""
    flagged = [row["key"] for row in report_rows if row["verdict"] == "flagged"]
    return {key: Picture(f"image {key}".encode(), f"overlay {key}".encode()) for key in flagged}


def visible_text(html: str) -> str:
    """What a browser shows, in one line, narrow and no-break spaces as plain ones."""
    pieces: list[str] = []
    parser = HTMLParser()
    parser.handle_data = pieces.append  # type: ignore[method-assign]
    parser.feed(re.sub(r"<style>.*?</style>", "", html, flags=re.DOTALL))
    return re.sub(r"\s+", " ", " ".join(pieces))


def tags_and_attributes(html: str) -> list[tuple[str, dict[str, str | None]]]:
    """Every opening tag as a browser would parse it."""
    found: list[tuple[str, dict[str, str | None]]] = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attributes: found.append((tag, dict(attributes)))  # type: ignore[method-assign]
    parser.handle_startendtag = parser.handle_starttag  # type: ignore[method-assign]
    parser.feed(html)
    return found


def read_csv(text: str) -> list[dict[str, str]]:
    """The rows of a CSV text as dictionaries."""
    return list(csv.DictReader(io.StringIO(text, newline="")))


def test_flagged_parts_are_ordered_by_their_worst_image() -> None:
    """The engineer would not see the worst part first, or a part's views would be torn apart."""
    parts = flagged_parts(make_report(night_rows()))

    assert [(part.rank, part.part, [image.view for image in part.images]) for part in parts] == [
        (1, "b", ["left"]),
        (2, "c", ["right", "left"]),
        (3, "a", ["right"]),
    ]
    assert [part.judged_images for part in parts] == [1, 2, 2]


def test_a_name_of_several_days_is_several_parts() -> None:
    """Where numbers start anew each day, seven defective parts would be reported as one."""
    earlier = DAY - timedelta(days=1)
    rows = [
        score_row("1", "v", "flagged", 30.0),
        score_row("1", "v", "flagged", 40.0, key="k2", production_date=earlier),
        score_row("2", "v", "ok", 1.0),
        score_row("2", "v", "unusable", np.nan, key="k4", production_date=earlier),
    ]
    report = make_report(rows, run=replace(RUN, window_start=earlier))

    assert [(part.part, part.judged_images, part.images[0].production_date) for part in flagged_parts(report)] == [
        ("1", 1, earlier),
        ("1", 1, DAY),
    ]
    assert (report.judged_parts, report.uninspected_parts) == (3, 1)
    assert headline(report).startswith("2 of 3 parts flagged")


def test_order_survives_normalised_scores_that_tie() -> None:
    """Two hopeless parts whose normalised scores round to the same number would come in the order of their keys."""
    rows = [score_row(part, "v", "flagged", raw, normalised_score=1.0) for part, raw in (("a", 1e17), ("b", 2e17))]

    assert [part.part for part in flagged_parts(make_report(rows))] == ["b", "a"]


def test_html_shows_counts_headline_and_provenance() -> None:
    """The summary would not agree with the scores, or a verdict could not be traced to its model."""
    failures = [("images/line/2025-11-14/f/left.png", "vanished", "404 when fetched")]
    text = visible_text(report_html(make_report(night_rows(), failures)))

    assert "3 of 4 parts flagged, 1 image unusable, 1 image failed, all 8 images accounted for." in text
    assert "1 part not inspected" in text
    for label, value in (("Images listed", 8), ("= scored", 6), ("+ unusable", 1), ("+ failed", 1)):
        assert re.search(rf"{re.escape(label).replace(' ', ' +')} +{value}\b", text.replace("\\ ", " ")), label
    assert "like the 85 calibration images of good parts, at most 5 % are flagged falsely." in text
    for origin in (
        "ganomaly-solar, version 3",
        "cal-1",
        "snap-1",
        "run-1",
        "0.1.0",
        "grey, 64 x 64 px",
        "too small: 8",
    ):
        assert origin in text
    assert "2025-11-15 03:00 CET" in text
    assert "2025-11-15 02:00 UTC" in text
    assert "404 when fetched" in text


def test_pictures_are_shown_worst_first_up_to_the_maximum() -> None:
    """A bad night would give a file too large to open, or the pictures of harmless parts instead of the worst."""
    rows = night_rows()
    html = report_html(make_report(rows, pictures=with_pictures(rows)), max_pictures=2)
    images = [attributes for tag, attributes in tags_and_attributes(html) if tag == "img"]

    assert [image["alt"] for image in images] == [
        "Image of part b, view left",
        "Heat map of part b, view left",
        "Image of part c, view right",
        "Heat map of part c, view right",
    ]
    assert "1 more flagged part, without pictures" in visible_text(html)
    assert "images/line/2025-11-14/a/right.png" in html


def test_a_part_without_any_picture_is_still_listed() -> None:
    """Flagged parts would be missing from the report when their heat maps could not be drawn."""
    html = report_html(make_report(night_rows()))

    assert "<img" not in html
    assert all(f"images/line/2025-11-14/{key}.png" in html for key in ("b/left", "c/right", "c/left", "a/right"))


def test_long_lists_are_cut_and_say_so() -> None:
    """A night with a dead camera would give a page that no browser opens, or hide parts without a word."""
    rows = [score_row(f"p{i:04}", "v", "flagged", 20.0 + i) for i in range(700)]
    html = report_html(make_report(rows))

    assert html.count("<tr>") == 1 + 500
    assert "The first 500 of 700 images; the others are in flagged.csv" in visible_text(html)
    assert len(read_csv(flagged_csv(make_report(rows)))) == 700


@pytest.mark.parametrize("column", ["key", "part", "view", "reason"])
@pytest.mark.parametrize("pictured", [True, False])
def test_html_escapes_what_comes_from_a_key(column: str, pictured: bool) -> None:
    """A file name in the bucket could run a script in the engineer's browser."""
    rows = night_rows()
    rows[2][column] = rows[6][column] = HOSTILE
    rows[6]["key"] += "2"
    failures = [(HOSTILE + "3", HOSTILE, HOSTILE)]
    pictures = with_pictures(rows) if pictured else {}
    html = report_html(make_report(rows, failures, pictures=pictures, line=line(name=HOSTILE, attribution=HOSTILE)))

    tags = tags_and_attributes(html)
    assert "script" not in {tag for tag, _ in tags}
    assert not [name for _, attributes in tags for name in attributes if name.startswith("on")]
    assert HOSTILE in visible_text(html)


def test_html_loads_nothing() -> None:
    """The report would call out of the plant's network, or look broken without one."""
    rows = night_rows()
    html = report_html(
        make_report(rows, pictures=with_pictures(rows), line=line(attribution="see https://example.org"))
    )
    tags = tags_and_attributes(html)

    assert {tag for tag, _ in tags}.isdisjoint({"script", "iframe", "object", "embed", "video", "audio", "base"})
    loaded = [attributes.get(name) for tag, attributes in tags if tag != "a" for name in ("src", "href", "srcset")]
    assert all(address is None or address.startswith("data:") for address in loaded)
    assert not re.search(r"url\(|@import", html)
    assert {attributes["href"] for tag, attributes in tags if tag == "a"} == {
        "flagged.csv",
        "regions.csv",
        "scores.parquet",
    }
    policies = [attributes["content"] for tag, attributes in tags if "http-equiv" in attributes]
    assert policies[0] is not None
    assert policies[0].startswith("default-src 'none'")


def test_every_image_has_a_text_and_every_table_headers() -> None:
    """The report would be useless to a screen reader."""
    rows = night_rows()
    tags = tags_and_attributes(report_html(make_report(rows, pictures=with_pictures(rows)), max_pictures=1))

    assert all(attributes.get("alt") for tag, attributes in tags if tag == "img")
    assert all(attributes.get("scope") == "col" for tag, attributes in tags if tag == "th")
    assert all(attributes.get("aria-label") for tag, attributes in tags if tag == "svg")


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ([], "No images in the bucket for this window: nothing was judged."),
        ([score_row("a", "v", "unusable", np.nan)], "No part could be judged, 1 image unusable, accounted for."),
        ([score_row("a", "v", "ok", 1.0)], "None of 1 part flagged, accounted for."),
    ],
    ids=["nothing listed", "all unusable", "nothing flagged"],
)
def test_quiet_nights_have_a_report(rows: list[dict[str, Any]], sentence: str) -> None:
    """A holiday, a dead camera or a perfect day would end in a traceback instead of a report."""
    report = make_report(rows)

    assert sentence in visible_text(report_html(report))
    assert sentence.rstrip(".") in night_markdown(report)
    assert read_csv(flagged_csv(report)) == []
    assert pq.read_table(io.BytesIO(scores_parquet(report))).schema.equals(SCORE_SCHEMA)


@pytest.mark.parametrize(
    ("counts", "problem"),
    [
        (RunCounts(listed=9, scored=6, unusable=1), "The numbers do not add up: 9 images listed"),
        (RunCounts(listed=9, scored=6, already_scored=2, unusable=1), "The report is incomplete: 9 images"),
    ],
)
def test_numbers_that_do_not_add_up_are_said_aloud(counts: RunCounts, problem: str) -> None:
    """An image lost on the way would leave no trace in the report."""
    report = make_report(night_rows(), counts=counts)

    for text in (visible_text(report_html(report)), night_markdown(report)):
        assert problem in text
        assert "accounted for" not in text


def test_verdicts_of_earlier_runs_are_reported_again() -> None:
    """The second run of a night would show an empty report."""
    text = visible_text(report_html(make_report(night_rows(), counts=RunCounts(listed=7, already_scored=7))))

    assert "3 of 4 parts flagged, 1 image unusable, all 7 images accounted for." in text


@pytest.mark.parametrize("row_group", [20_000, 2])
def test_parquet_holds_the_scores_unchanged(row_group: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers in the bucket would differ from those in the report store."""
    monkeypatch.setattr(tables, "ROW_GROUP", row_group)
    report = make_report(night_rows())
    table = pq.read_table(io.BytesIO(scores_parquet(report)))

    assert table.schema.equals(SCORE_SCHEMA)
    expected = report.scores.astype(object).where(report.scores.notna(), None).to_dict("records")
    assert table.to_pylist() == expected


def test_csv_holds_flagged_images_with_full_precision() -> None:
    """The list for the plant's own tools would be rounded, unordered or incomplete."""
    rows = night_rows()
    rows[2]["raw_score"] = 30.0 + 1e-12
    records = read_csv(flagged_csv(make_report(rows)))

    assert [(r["rank"], r["part"], r["view"]) for r in records] == [
        ("1", "b", "left"),
        ("2", "c", "right"),
        ("2", "c", "left"),
        ("3", "a", "right"),
    ]
    assert float(records[0]["raw_score"]) == 30.0 + 1e-12
    assert records[0]["production_date"] == "2025-11-14"
    assert records[0]["captured_at"] == "2025-11-14T08:00:00.123456+00:00"
    assert tuple(records[0]) == FLAGGED_CSV_COLUMNS


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n", "\uff1d"])
def test_csv_cells_are_no_formulas(start: str) -> None:
    """A part's name could run a formula in the engineer's spreadsheet."""
    formula = f'{start}HYPERLINK("x";"y"),1'
    report = make_report([score_row(formula, formula, "flagged", -30.0, key=HOSTILE)])
    record = read_csv(flagged_csv(report))[0]

    assert record["part"] == record["view"] == f"'{formula}"
    assert record["key"] == HOSTILE
    assert record["raw_score"] == "-30.0"


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_csv_cells_are_no_formulas_whatever_the_separator(delimiter: str) -> None:
    """A spreadsheet set to German cuts cells at semicolons: what stands behind one could run as a formula."""
    parts = [f"a{separator}{quotes}=1+1" for separator in ";,\t\n\r|" for quotes in ("", '"', "'", '""')]
    rows = [score_row(part, "v;=2", "flagged", 20.0, key=f"key {n};=3") for n, part in enumerate(parts)]
    text = flagged_csv(make_report(rows))
    cells = [cell for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter) for cell in row]
    assert not [cell for cell in cells if cell.startswith(("=", "+", "@", "\t", "\r"))]
    found = [record["part"].replace("'", "") for record in read_csv(text)]
    assert sorted(found) == sorted(part.replace("'", "") for part in parts)


def test_csv_lines_end_as_rfc_4180_says() -> None:
    """Strict readers would refuse the file, or a quote or line break in a key would shift its columns."""
    key = 'a "b", c\r\nd.png'
    text = flagged_csv(make_report([score_row("a", "v", "flagged", 30.0, key=key)]))

    assert text.endswith("\r\n")
    assert '"a ""b"", c\r\nd.png"' in text
    assert read_csv(text)[0]["key"] == key


def test_markdown_escapes_what_comes_from_a_key() -> None:
    """A part's name could add columns, links or HTML to the page in the Prefect UI."""
    part = HOSTILE + "|[x](http://example.org)\n# y `z` *w* _v_ www.example.org"
    text = night_markdown(make_report([score_row(part, "v", "flagged", 30.0)], line=line(name=HOSTILE)))
    row = next(line for line in text.splitlines() if line.startswith("| 1 | &lt;"))

    assert "<" not in text
    assert len(re.findall(r"(?<!\\)\|", row)) == 8
    assert not re.search(r"(?<!\\)[\[\]()`*_#:!]", row.split(" | ")[1])
    assert "&lt;script&gt;alert\\(1\\)&lt;/script&gt;" in row


def test_markdown_lists_the_ten_worst_parts() -> None:
    """The table in the Prefect UI would grow without bound or lose the worst part."""
    rows = [score_row(f"p{i}", "v", "flagged", 20.0 + i) for i in range(12)]
    text = night_markdown(make_report(rows))

    assert re.findall(r"^\| \d+ \| (p\d+)", text, flags=re.MULTILINE) == [f"p{i}" for i in range(11, 1, -1)]
    assert "2 more flagged parts: the list lies beside the report." in text
    assert "| 12 | 12 | 0 | 0 | 0 | 12 | 12 |" in text


def test_histogram_counts_every_judged_image_once() -> None:
    """Images would be missing from the histogram, or flagged ones drawn on the wrong side of the limit."""
    bars, ticks = score_histogram(make_report(night_rows()).judged)

    assert sum(bar.ok for bar in bars) == 2
    assert sum(bar.flagged for bar in bars) == 4
    assert all(bar.high <= 0.5 for bar in bars if bar.ok)
    assert all(bar.low >= 0.5 for bar in bars if bar.flagged)
    assert (ticks[0], ticks[-1][1]) == ((0, 0.0), 100.0)


@pytest.mark.parametrize("highest", [0, 1, 4, 9, 10, 37, 99, 100, 12345, 999_999])
def test_histogram_axis_covers_its_highest_bar(highest: int) -> None:
    """Bars would stick out of the histogram, or its axis would be crowded with numbers."""
    judged = pd.DataFrame({"verdict": ["ok"] * highest, "normalised_score": np.full(highest, 0.1)})
    bars, ticks = score_histogram(judged)

    assert max(bar.ok_height for bar in bars) <= 100
    assert 3 <= len(ticks) <= 6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: [row | {"verdict": "bad"} for row in rows], r"verdict \['bad'\] is none of ok, flagged"),
        (lambda rows: [*rows, rows[0] | {"etag": "older"}], "1 keys have more than one row"),
        (lambda rows: [row | {"part": None} for row in rows], "no part for key"),
    ],
)
def test_tables_that_would_be_misread_are_refused(change: Callable[..., Any], message: str) -> None:
    """A picture could stand beside the score of another image, or images vanish from the count of parts."""
    with pytest.raises(ValueError, match=message):
        make_report(change(night_rows()))


def test_missing_columns_are_named() -> None:
    """A renamed column would surface as a KeyError deep in the template."""
    with pytest.raises(ValueError, match="failures: column detail missing"):
        NightReport(**vars(make_report(night_rows())) | {"failures": pd.DataFrame(columns=["key", "reason"])})


# --- regions --------------------------------------------------------------------------------------------------------


def regions_of(key: str, part: str) -> pd.DataFrame:
    """Two regions of an image."""
    rows = [
        (key, part, "top", DAY, 1, 120, 88, 34, 12, 137.0, 94.0, 310, 36.0, 2.4, True),
        (key, part, "top", DAY, 2, 4, 6, 5, 5, 6.5, 8.5, 25, 6.7, 1.1, True),
    ]
    return pd.DataFrame(rows, columns=list(REGION_COLUMNS))


def test_regions_are_listed_in_pixels_and_millimetres() -> None:
    """A person would not learn where to look, or read pixels for millimetres."""
    rows = night_rows()
    worst = max((row for row in rows if row["verdict"] == "flagged"), key=lambda row: row["raw_score"])
    pictures, regions = with_pictures(rows), regions_of(worst["key"], worst["part"])
    plain = make_report(rows, pictures=pictures, regions=regions)
    shown = visible_text(report_html(plain))
    assert "1 34 x 12 px at 120, 88, longest 36 px, 310 px²" in shown
    assert "2 regions" in shown
    assert "No region: unlike good parts as a whole" in shown  # of the others
    table = pd.read_csv(io.StringIO(regions_csv(plain)))
    assert table.loc[0, ["x_px", "y_px", "width_px", "height_px", "area_px2"]].tolist() == [120, 88, 34, 12, 310]
    assert table["extent_mm"].isna().all()
    scaled = make_report(
        rows,
        pictures=pictures,
        regions=regions,
        line=line(images=LINE.images.model_copy(update={"mm_per_px": 0.05})),
    )
    assert "1.7 x 0.6 mm, longest 1.8 mm, 0.775 mm² (34 x 12 px at 120, 88)" in visible_text(report_html(scaled))
    assert pq.read_schema(io.BytesIO(regions_parquet(plain))).equals(REGION_SCHEMA)
    table = pd.read_csv(io.StringIO(regions_csv(scaled)))
    assert table.loc[0, ["width_mm", "height_mm", "extent_mm", "area_mm2"]].tolist() == pytest.approx(
        [1.7, 0.6, 1.8, 0.775]
    )


def test_a_night_without_regions_has_an_empty_list() -> None:
    """A program that reads the list every morning would fail on a good day."""
    night = make_report(night_rows())
    table = pd.read_csv(io.StringIO(regions_csv(night)))
    assert pq.read_schema(io.BytesIO(regions_parquet(night))).equals(REGION_SCHEMA)
    assert table.empty
    assert "extent_mm" in table.columns
    assert make_report(night_rows(), withheld=True).regions_file == "regions-withheld"


def test_the_reason_of_a_weaker_promise_is_the_right_one() -> None:
    """A line with plenty of parts would be told that it has too few."""
    few = replace(CALIBRATION, fold_size=6)
    shown = visible_text(report_html(make_report(night_rows(), calibration=few)))
    assert "at most 13.2 % for certain: the limit comes from few parts" in shown
    trimmed = visible_text(report_html(make_report(night_rows(), calibration=replace(CALIBRATION, trimmed_share=0.01))))
    assert "at most 6 % for certain: 1 % of the parts were left out as suspects" in trimmed


# --- two promises, and regions that count ---------------------------------------------------------------------------


def test_both_promises_stand_beside_what_was_seen() -> None:
    """An engineer would not learn which flags are sure, or not see that too many are called sure."""
    rows, both = night_rows(), Calibration.fit(np.linspace(1, 20, 199), 0.05, sure_rate=0.01)
    night = make_report(rows, pictures=with_pictures(rows), calibration=both)
    shown = visible_text(report_html(night))
    assert "At most 1 % of them are flagged as sure. How many of the sure flags are defects" in shown
    assert "2 of 4 flags are sure; with nothing but good parts, 0.06 on average, up to 1 without surprise" in shown
    assert "4 images, 2 sure" in shown
    assert re.findall(r"(\w) sure (?=[\d.]+)", shown) == ["b", "c"]
    table = pd.read_csv(io.StringIO(flagged_csv(night)))
    assert table.set_index("key")["sure"].to_dict() == {
        row["key"]: row["raw_score"] >= 20 for row in rows if row["verdict"] == "flagged"
    }
    assert pq.read_table(io.BytesIO(scores_parquet(night)))["sure"].to_pylist() == [row["sure"] for row in rows]
    weak = make_report(rows, calibration=replace(both, fold_size=15))
    assert "1 % of them, at most 7.94 % for certain, are flagged as sure" in visible_text(report_html(weak))


def test_a_night_with_one_promise_speaks_of_no_other() -> None:
    """Who asked for nothing would wonder what sure means."""
    rows = [row | {"sure": False} for row in night_rows()]
    shown = visible_text(report_html(make_report(rows, pictures=with_pictures(rows))))
    assert " sure" not in shown.replace("be sure", "")


def test_regions_that_do_not_count_are_only_counted() -> None:
    """A speck would be listed like a hole, or an image with specks alone look as if it had none."""
    rows = night_rows()
    worst, other = sorted((r for r in rows if r["verdict"] == "flagged"), key=lambda row: -row["raw_score"])[:2]
    regions = pd.concat([regions_of(worst["key"], worst["part"]), regions_of(other["key"], other["part"])])
    regions["counts"] = [True, False, False, False]
    night = make_report(rows, pictures=with_pictures(rows), regions=regions)
    shown = visible_text(report_html(night))
    assert "1 34 x 12 px at 120, 88" in shown
    assert "5 x 5 px" not in shown
    assert "1 region below the line\u2019s limits" in shown
    assert re.search("Nothing beyond the line\u2019s limits\\s+2 regions below", shown)
    table = pd.read_csv(io.StringIO(regions_csv(night)))
    assert table["counts"].tolist() == [True, False, False, False]
    assert pq.read_schema(io.BytesIO(regions_parquet(night))).equals(REGION_SCHEMA)
