"""Every file and key of the corpus gets its documented outcome, costs no memory and harms no other image."""

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from ganomaly.images.decoding import decode_image
from ganomaly.images.preparation import prepare_image
from ganomaly.images.quality import QualityGate
from ganomaly.images.recipe import Recipe
from tasks.lines.line import LineConfig
from tests.faults.bad_images import DATE, GREY, IGNORED, IMAGES, KEYS, RGB, SCORED, UNSEEN_KEYS, BadImage, BadKey

LINE = LineConfig.model_validate({"name": "plates"})

CHILD = """
import json, resource, sys
sys.path.insert(0, sys.argv[1])
from bad_images import GREY, IMAGES, encode
from ganomaly.errors import ImageError
from ganomaly.images.decoding import decode_image

bombs = {case.name: case.make() for case in IMAGES if case.name.startswith("bomb-")}
decode_image(encode("png", GREY))
with open("/proc/self/statm") as statm:
    taken = int(statm.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (taken + 50_000_000,) * 2)
outcomes = {}
for name, data in bombs.items():
    try:
        outcomes[name] = str(decode_image(data).shape)
    except ImageError as error:
        outcomes[name] = error.reason
print(json.dumps(outcomes))
"""


def outcome_in_words(case: BadImage | BadKey) -> str:
    """For the table of faults."""
    words = {
        "key_layout": "unusable: key_layout, never fetched",
        "in no window": "named as never looked at",
        "ignored": "ignored, counts nowhere",
    }
    return words.get(case.outcome, case.outcome if case.outcome == SCORED else f"unusable: {case.outcome}")


def marked(area: str, cases: tuple[BadImage, ...] | tuple[BadKey, ...]) -> list[object]:
    """The cases as parameters, each with its row of the table."""
    return [
        pytest.param(
            case,
            id=case.name,
            marks=pytest.mark.fault(area=area, fault=case.fault, outcome=outcome_in_words(case)),
        )
        for case in cases
    ]


@pytest.mark.parametrize("case", marked("Image file", IMAGES))
def test_a_file_gets_its_outcome(case: BadImage) -> None:
    """Broken if a bad file raises, is judged as if it were whole, or a good one of a rare kind is refused."""
    prepared = prepare_image(case.make(), Recipe(size_px=32), QualityGate())
    assert (prepared.reason or SCORED) == case.outcome, prepared.detail
    assert prepared.usable == (case.outcome == SCORED)
    if not prepared.usable:
        assert len(prepared.detail) > 10
        if "starts with" in prepared.detail:
            assert "PNG, JPEG, TIFF or BMP" in prepared.detail


_LUMINANCE = cv2.cvtColor(RGB, cv2.COLOR_RGB2GRAY)
PIXELS = {
    **dict.fromkeys(("png-interlaced", "png-animated", "tiff-big", "tiff-tiled"), GREY),
    **dict.fromkeys(("bmp-top-down", "bmp-rle", "png-tail", "jpeg-as-tiff", "jpeg-tail", "tiff-12"), GREY),
    **dict.fromkeys(("png-rgba", "png-palette", "jpeg-cmyk", "jpeg-rgb", "jpeg-progressive", "jpeg-icc"), RGB),
    **dict.fromkeys(("tiff-cmyk", "tiff-planes", "tiff-planes-16"), RGB),
    **dict.fromkeys(("png-grey-alpha", "tiff-grey-alpha", "png-icc"), _LUMINANCE),
}


@pytest.mark.parametrize("name", PIXELS)
def test_a_rare_kind_of_file_has_the_pixels_of_a_common_one(name: str) -> None:
    """Broken if a kind of file is taken, but judged in wrong colours, upside down, or by another page."""
    image = decode_image(next(case for case in IMAGES if case.name == name).make())
    expected = PIXELS[name]
    if image.ndim > expected.ndim:
        expected = np.dstack([expected] * 3)
    off = image / np.iinfo(image.dtype).max - expected / 255
    assert image.shape == expected.shape
    assert np.abs(off).mean() < 0.04


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="limits a process's memory as Linux does")
def test_files_that_unfold_to_gigabytes_cost_no_memory() -> None:
    """Broken if a few kilobytes in the bucket can take the machine's memory: 50 MB must do for every bomb."""
    folder = str(Path(__file__).parent)
    done = subprocess.run([sys.executable, "-c", CHILD, folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    expected = {case.name: case.outcome for case in IMAGES if case.name.startswith("bomb-")}
    expected |= {name: "(96, 96)" for name, outcome in expected.items() if outcome == SCORED}
    assert json.loads(done.stdout) == expected


@pytest.mark.parametrize("case", marked("Key", (*KEYS, *UNSEEN_KEYS)))
def test_a_key_means_what_it_says(case: BadKey) -> None:
    """Broken if a strange key is taken for another part, for another day, or for an image when it is none."""
    fields = LINE.parse_key(LINE.images.prefix + case.key)
    if case.outcome == SCORED:
        assert fields is not None
        assert f"{fields.date}/{fields.part}/{fields.view}.png" == case.key
    elif case.outcome != IGNORED:
        assert fields is None
    assert LINE.ignores(LINE.images.prefix + case.key) == (case.outcome == IGNORED)
    listed = (LINE.images.prefix + case.key).startswith(f"{LINE.images.prefix}{DATE}/")
    assert listed == (case not in UNSEEN_KEYS)
