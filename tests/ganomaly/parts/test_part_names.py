"""Parts by file names, and what hangs together."""

import numpy as np
import pytest

from ganomaly.parts.part_names import parts_from_names, suspected_parts, unite_parts


def test_part_ids_come_from_names() -> None:
    """Views of a part would be parts, or a mistyped pattern make one part of all."""
    names = ["day-1/A7_top.png", "day-1/A7_side.png", "day-2/B1_top.png"]
    assert parts_from_names(names, r"([^/]+)_\w+\.png$") == ["A7", "A7", "B1"]
    assert parts_from_names(names, r"(day)-\d/(?P<part>\w+)_") == ["A7", "A7", "B1"]
    with pytest.raises(ValueError, match=r"'\^\(A\.\)_': finds no part id in 3 of 3 names, for example 'day-1/A7_top"):
        parts_from_names(names, "^(A.)_")
    with pytest.raises(ValueError, match=r"'\(A\)\?': finds no part id in 3 of 3"):
        parts_from_names(names, "(A)?")
    with pytest.raises(ValueError, match="has no group"):
        parts_from_names(names, "A7")
    with pytest.raises(ValueError, match="is no regular expression"):
        parts_from_names(names, "(A7")


def test_a_field_of_file_names_that_may_be_the_part_is_pointed_out() -> None:
    """Photos of ten positions would pass for 400 parts, and their promise break at an eleventh."""
    positions = [f"01_{1000 + n}_{n % 10 * 45}_crop.png" for n in range(100)]
    found = suspected_parts(positions)
    assert found is not None
    assert "only 10 values (0, 135, 180, ...)" in found
    pattern = found.split("'")[1]
    assert parts_from_names(positions[:3], pattern) == ["0", "45", "90"]
    assert suspected_parts([f"part{n}.png" for n in range(100)]) is None
    assert suspected_parts([f"a_{n % 2}.png" for n in range(10)]) is None


def test_parts_that_share_a_group_are_one_part() -> None:
    """A part under two ids would train and calibrate; two parts would be one without a reason."""
    assert unite_parts(["b", "a", "c", "d"], np.array([0, 1, 1, 2])).tolist() == ["b", "a", "a", "d"]
    assert unite_parts(["b", "a", "b", "d"], np.array([0, 1, 2, 1])).tolist() == ["b", "a", "b", "a"]
