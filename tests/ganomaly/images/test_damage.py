"""Damage at random places in every kind of file: the undamaged pixels or an error, as far as the format shows it."""

from collections.abc import Callable

import numpy as np
import pytest

from ganomaly.errors import ImageError
from ganomaly.images.decoding import decode_image
from tests.ganomaly.images.files import COUNTED, PROVEN

PLACES = 10
SECTOR = 64


def overwrite_with_zeros(data: bytes, at: int, _rng: np.random.Generator) -> bytes:
    """A sector that was never written."""
    return data[:at] + bytes(SECTOR) + data[at + SECTOR :]


def overwrite(data: bytes, at: int, rng: np.random.Generator) -> bytes:
    """A sector of another file."""
    return data[:at] + rng.bytes(SECTOR) + data[at + SECTOR :]


def flip_a_bit(data: bytes, at: int, rng: np.random.Generator) -> bytes:
    """One bit that fell over."""
    return data[:at] + bytes([data[at] ^ 1 << rng.integers(8)]) + data[at + 1 :]


def cut(data: bytes, at: int, _rng: np.random.Generator) -> bytes:
    """A transfer that broke off."""
    return data[:at]


def outcomes(data: bytes, damage: Callable[[bytes, int, np.random.Generator], bytes]) -> list[str]:
    """What becomes of the file at each of the places: "equal", "different", or the error's reason."""
    rng, whole, found = np.random.default_rng(7), decode_image(data), []
    for at in rng.integers(8, len(data) - 13, PLACES).tolist():  # not in the end mark alone
        try:
            pixels = decode_image(damage(data, at, rng))
        except ImageError as error:
            found.append(error.reason)
        else:
            found.append("equal" if np.array_equal(pixels, whole) else "different")
    return found


@pytest.mark.parametrize(
    "damage", [overwrite_with_zeros, overwrite, flip_a_bit, cut], ids=lambda damage: damage.__name__
)
@pytest.mark.parametrize("kind", PROVEN)
def test_a_format_with_checksums_shows_all_damage(kind: str, damage: Callable[..., bytes]) -> None:
    """A picture with a damaged part would be judged, or trained on."""
    assert "different" not in outcomes(PROVEN[kind], damage)


@pytest.mark.parametrize("kind", COUNTED)
def test_a_format_that_counts_shows_what_is_missing(kind: str) -> None:
    """A picture with a grey or black rest would be judged, or trained on."""
    assert set(outcomes(COUNTED[kind], cut)) <= {"truncated", "unreadable"}


@pytest.mark.parametrize("kind", ["JPEG progressive", "TIFF JPEG", "TIFF LZW", "JPEG restarts"])
def test_most_overwritten_sectors_show(kind: str) -> None:
    """The checks that a format allows would be gone: the old decoder saw none to a third of these."""
    assert outcomes(COUNTED[kind], overwrite).count("different") <= PLACES // 2
