"""Parts of images: read from file names, and united where they hang together."""

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

SUSPICIOUS_IMAGES = 20
SUSPICIOUS_VALUES = 4
SUSPICIOUS_IMAGES_EACH = 5
"""Images per value from which a field of file names is taken for a part, where nobody named parts."""


def parts_from_names(names: Sequence[str], pattern: str) -> list[str]:
    """The part id in each file name.

    Args:
        names: paths with forward slashes, (N,).
        pattern: regular expression, searched in each name; the part id is the group named ``part`` or else the first.

    Raises:
        ValueError: if the pattern is no regular expression, has no group, or a name does not match it.
    """
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"part pattern {pattern!r}: is no regular expression ({error})") from None
    if not expression.groups:
        raise ValueError(f"part pattern {pattern!r}: has no group; put the part id in brackets, as in '^([^_]+)_'")
    group = expression.groupindex.get("part", 1)
    found = [expression.search(name) for name in names]
    parts = [match[group] if match else None for match in found]
    missing = [name for name, part in zip(names, parts, strict=True) if not part]
    if missing:
        raise ValueError(
            f"part pattern {pattern!r}: finds no part id in {len(missing)} of {len(names)} names, for example "
            f"{missing[0]!r}; it is searched in the path below the folder"
        )
    return [part for part in parts if part]


def suspected_parts(names: Sequence[str]) -> str | None:
    """Suggestion of file names about parts, for people; None if there is none.

    Names such as `kos07_Part3.jpg` or `01_20200905_277500_crop.png` are cut at their separators. A field that has
    a few values, each in many names, may be the part, the position or
    the day: images that share it are no independent samples.
    """
    fields = [re.split(r"[_\-. /]+", name.rsplit(".", 1)[0]) for name in names]
    if len(names) < SUSPICIOUS_IMAGES or len({len(parts) for parts in fields}) != 1:
        return None
    for at, values in enumerate(zip(*fields, strict=True)):
        counts = Counter(values)
        if SUSPICIOUS_VALUES <= len(counts) <= len(names) / SUSPICIOUS_IMAGES_EACH and min(counts.values()) > 1:
            example = ", ".join(sorted(counts)[:3])
            pattern = "^" + r"[^_\-. /]+[_\-. /]+" * at + r"([^_\-. /]+)"
            return (
                f"file names have a field with only {len(counts)} values ({example}, ...). If it names the part, the "
                f"position or the day, good parts of other ones will be flagged more often than promised: try "
                f"--part-pattern '{pattern}', which leaves whole ones out when calibrating"
            )
    return None


def unite_parts(parts: Sequence[str] | NDArray[np.str_], groups: NDArray[np.intp]) -> NDArray[np.str_]:
    """Unite parts that share a group, and groups that share a part.

    Args:
        parts: part id of each image, (N,).
        groups: group number of each image, (N,).

    Returns:
        The smallest part id of all that hang together, for each image, (N,).
    """
    names, part_n = np.unique(np.asarray(parts, dtype=np.str_), return_inverse=True)
    size = len(names) + int(groups.max(initial=-1)) + 1
    graph = coo_array((np.ones(len(groups)), (part_n, len(names) + groups)), shape=(size, size))
    component = connected_components(graph, directed=False)[1][: len(names)]
    _, first = np.unique(component, return_index=True)  # names ascend: the first is the smallest
    united: NDArray[np.str_] = names[first[component[part_n]]]
    return united
