"""Line files: what is read from them, and what each mistake says."""

from datetime import date
from pathlib import Path

import pytest

from ganomaly.config import DetectorConfig
from ganomaly.errors import ConfigError
from tasks.lines.line import KeyFields, LineConfig, load_line
from tasks.lines.names import list_lines

DAY = date(2026, 3, 9)


def write(folder: Path, text: str, line: str = "cells") -> Path:
    """Write a line file that begins with the line's own name."""
    path = folder / f"{line}.toml"
    path.write_text(text if "name =" in text else f'name = "{line}"\n{text}', encoding="utf-8")
    return path


def line_with(folder: Path, text: str) -> LineConfig:
    """The line that a file with this text describes."""
    write(folder, text)
    return load_line("cells", folder)


def test_a_file_with_the_name_alone_is_complete(tmp_path: Path) -> None:
    """A new line would need settings that nobody knows on the first day."""
    line = line_with(tmp_path, "")
    assert line.images.prefix == "images/cells/"
    assert line.images.normal_list is None
    assert (line.timezone, line.scoring.shard_size, line.scoring.chunk_size) == ("UTC", 10_000, 256)
    assert line.detector == DetectorConfig()
    assert type(line.detector) is DetectorConfig


def test_the_detector_s_tables_reach_the_detector(tmp_path: Path) -> None:
    """A line's recipe would be ignored in training."""
    line = line_with(tmp_path, "[recipe]\nsize_px = 128\n[training]\nepochs = 3")
    assert (line.detector.recipe.size_px, line.detector.training.epochs) == (128, 3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[recipe]\nsize_px = 50", r"cells\.toml: recipe\.size_px = 50: "),
        ("[recipe]\nsise_px = 64", r"recipe\.sise_px: there is no such key; allowed here: .*size_px"),
        ("[scorring]\n", r"scorring: there is no such key; allowed here: .*scoring"),
        ("[scoring]\nfetch_threads = 0", r"scoring\.fetch_threads = 0: .*greater than or equal to 1"),
        ('timezone = "Europe/Frankfurt"', r"timezone = 'Europe/Frankfurt': .*IANA name"),
        ('timezone = "../UTC"', r"timezone = '\.\./UTC'"),
        ('name = "Cells"', r"name = 'Cells': "),
        ('name = "other"', r"name = 'other': must be 'cells', the name of the file"),
        ('[images]\nprefix = "images/cells"', r"images\.prefix = 'images/cells': "),
        ('[images]\nprefix = "reports/x/"', r"images\.prefix = 'reports/x/': lies where the pipeline keeps its own"),
        ('[images]\nprefix = "/images/"', r"images\.prefix = '/images/': "),
        ('[images]\nkey_pattern = "{part}.png"', r"images\.key_pattern = .*: must contain \{date\}"),
        ('[images]\nkey_pattern = "{date}/{part}/{camera}.png"', r"\{camera\} is not a field; allowed: date, part"),
        ('[images]\nkey_pattern = "{date}/{}/{part}"', r"\{\} is not a field"),
        ('[images]\nkey_pattern = "{date}/{part}{view}.png"', "two fields need a character between them"),
        ('[images]\nkey_pattern = "{date}/{part}/{part}.png"', "only once"),
        ('[images]\nkey_pattern = "{date}/{part:03d}"', r"\{part\} takes no format"),
        ('[images]\nkey_pattern = "{date:%Y/%m}/{part}.png"', "needs year, month and day, each once"),
        ('[images]\nkey_pattern = "{date:%Y%m%d %H}/{part}.png"', "%H is not allowed, only %Y"),
        ('[images]\nkey_pattern = "{date}/{part"', r"images\.key_pattern = "),
        ("images = 3", r"images = 3: "),
        ("[recipe\n", r"cells\.toml: is not valid TOML"),
    ],
)
def test_a_mistake_names_file_key_value_and_way_out(tmp_path: Path, text: str, message: str) -> None:
    """Somebody who edits a line would have to guess what is wrong."""
    with pytest.raises(ConfigError, match=message):
        line_with(tmp_path, text)


@pytest.mark.parametrize("line", ["bottles", "../cells", "", "Cells"])
def test_a_missing_line_names_those_that_exist(tmp_path: Path, line: str) -> None:
    """A misspelt line would end in a bare "file not found", or read a file outside the folder."""
    (tmp_path / "lines").mkdir()
    write(tmp_path, "")
    write(tmp_path / "lines", "", "caps")
    write(tmp_path / "lines", "", "screws")
    with pytest.raises(ConfigError, match="lines there: caps, screws"):
        load_line(line, tmp_path / "lines")


def test_lines_of_a_missing_folder_are_none(tmp_path: Path) -> None:
    """A fresh plant without lines would end in a traceback."""
    assert list_lines(tmp_path / "nowhere") == []


@pytest.mark.parametrize(
    ("pattern", "key", "fields"),
    [
        ("{date}/{part}/{view}.{ext}", "2026-03-09/p-17/top.png", KeyFields(DAY, "p-17", "top")),
        ("{date}/{part}/{view}.{ext}", "2026-03-09/p.1/a.b.tiff", KeyFields(DAY, "p.1", "a.b")),
        ("{date}/{part}/{view}.{ext}", "2026-03-09/Zelle Ä'\"<b>/日.png", KeyFields(DAY, "Zelle Ä'\"<b>", "日")),
        ("{date}/{part}/{view}.{ext}", "2026-03-09/line\nbreak/top.png", KeyFields(DAY, "line\nbreak", "top")),
        ("{date}/{part}/{view}.{ext}", "2026-02-31/p/top.png", None),
        ("{date}/{part}/{view}.{ext}", "2026-03-09/p/top", None),
        ("{date}/{part}/{view}.{ext}", "2026-03-09/p/deeper/top.png", None),
        ("{date}/{part}/{view}.{ext}", "2026-03-09//top.png", None),
        ("{date}/{part}/{view}.{ext}", "2026-03-09/p/top.png\n", None),
        ("{date}/{part}/{view}.{ext}", "٢٠٢٦-٠٣-٠٩/p/top.png", None),  # digits, but none of a date
        ("{date}/{part}.{ext}", "2026-03-09/p.png", KeyFields(DAY, "p", "")),
        ("cam+1/{part}_{date}.png", "cam+1/a_b_2026-03-09.png", KeyFields(DAY, "a_b", "")),
        ("cam+1/{part}_{date}.png", "cammm1/a_2026-03-09xpng", None),
        ("{date:%Y/%m/%d}/{part}_{view}.{ext}", "2026/03/09/p-17_top.png", KeyFields(DAY, "p-17", "top")),
        ("{date:%Y/%m/%d}/{part}_{view}.{ext}", "2026-03-09/p-17_top.png", None),
        ("{date:%d.%m.%y}/{view}.{ext}", "09.03.26/top.png", KeyFields(DAY, "09.03.26/top.png", "top")),
        ("{date:%d.%m.%y}/{view}.{ext}", "31.02.26/top.png", None),
        ("{part}_{date:%Y%m%d}.png", "p_20260309.png", KeyFields(DAY, "p", "")),
    ],
)
def test_a_key_is_taken_apart(tmp_path: Path, pattern: str, key: str, fields: KeyFields | None) -> None:
    """Images would be counted under a wrong part or day, or objects that are no images would be scored."""
    line = line_with(tmp_path, f'[images]\nkey_pattern = "{pattern}"')
    assert line.parse_key(f"images/cells/{key}") == fields
    assert line.parse_key(f"images/cells-2/{key}") is None


def test_listing_is_narrowed_to_the_dates_where_the_keys_allow_it(tmp_path: Path) -> None:
    """A night would list years of images, or a window over a month's end would miss a day."""
    by_date = line_with(tmp_path, "")
    assert by_date.prefix_for(DAY) == "images/cells/2026-03-09/"
    days = by_date.listing_prefixes(date(2026, 2, 27), date(2026, 3, 1))
    assert days == [f"images/cells/{day}/" for day in ("2026-02-27", "2026-02-28", "2026-03-01")]
    nested = line_with(tmp_path, '[images]\nkey_pattern = "{date:%Y/%m/%d}/{part}.{ext}"')
    assert nested.listing_prefixes(DAY, DAY) == ["images/cells/2026/03/09/"]
    by_part = line_with(tmp_path, '[images]\nprefix = ""\nkey_pattern = "raw/{part}/{date}.png"')
    assert by_part.listing_prefixes(date(2026, 2, 27), date(2026, 3, 1)) == ["raw/"]


def test_files_beside_images_are_ignored_by_name(tmp_path: Path) -> None:
    """Cameras' notes and file managers' leavings would be unusable images, or an image be ignored."""
    line = line_with(tmp_path, "")
    for name in ("top.json", "TOP.XML", "thumbs.db", ".DS_Store", "._top.png", "top.png.part", "top.png.partial", ""):
        assert line.ignores(f"images/cells/2026-03-09/p/{name}"), name
    for name in ("top.png", "json", "part.png", "top.tmp.png", "p"):
        assert not line.ignores(f"images/cells/2026-03-09/p/{name}"), name
    own = line_with(tmp_path, '[images]\nignore = ["calib_*"]\n[scoring]\ndays_off = ["sunday"]')
    assert own.ignores("images/cells/2026-03-09/p/calib_1.png")
    assert not own.ignores("images/cells/2026-03-09/p/top.json")
    for prefix in ('""', '"images/cells/"'):
        kept = line_with(tmp_path, f'[images]\nprefix = {prefix}\nmask = "m.png"\nnormal_list = "n/good.csv"')
        for key in ("reports/cells/2026-03-09/r/report.html", "golden/cells/good/a.png", "m.png", "n/good.csv"):
            assert kept.is_own(key), key
        assert not kept.is_own("images/cells/2026-03-09/p/top.png")
    assert [own.works_on(date(2026, 3, day)) for day in (7, 8, 9)] == [True, False, True]
